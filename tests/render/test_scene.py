"""Scenes: drawn by seed, kept as JSON, rendered to the same bytes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.render import Renderer, Scene, SceneSampler, coarse_face
from facewright.render.action_units import expression_of
from facewright.render.scene import EMOTIONS, converging, emotion_weights, lids

SIZE = 128


def test_scene_depends_on_seed_and_index_alone(sampler: SceneSampler) -> None:
    later = SceneSampler(coarse_face(), seed=3, size=SIZE)
    assert later.scene(7) == sampler.scene(7)
    assert sampler.scene(7) != sampler.scene(8)
    assert SceneSampler(coarse_face(), seed=4, size=SIZE).scene(7) != sampler.scene(7)


def test_json_line_is_exact(sampler: SceneSampler, renderer: Renderer) -> None:
    scene = sampler.scene(5)
    line = scene.to_json()
    again = Scene.from_json(line)
    assert "\n" not in line
    assert again == scene
    first, second = renderer.render(scene), Renderer(coarse_face()).render(again)
    for name in ("rgb", "clean", "depth", "labels", "vertices"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_distributions(sampler: SceneSampler) -> None:
    scenes = [sampler.scene(i) for i in range(400)]
    yaw, pitch, roll = np.array([s.pose for s in scenes]).T
    assert np.abs(yaw).max() <= 90
    assert 5 < (np.abs(yaw) > 60).sum() / 4 < 16  # 30 % · ⅓ and a little of the normal part
    assert 9 < pitch.std() < 15
    assert 6 < roll.std() < 10
    distance = np.array([s.camera.distance for s in scenes]) / 100
    assert 0.35 <= distance.min() < 0.45
    assert 1.7 < distance.max() <= 2
    neutral = np.mean([max([w for n, w in s.expression.items() if "mouth" in n], default=0) < 0.15 for s in scenes])
    assert 0.2 < neutral < 0.6
    closed = np.mean([s.expression.get("eyeBlink_L", 0) == 1 for s in scenes])
    assert 0.02 < closed < 0.09
    inward = np.array([s.gaze[0][0] - s.gaze[1][0] for s in scenes])
    assert (inward > 0).all()


def test_people_keep_face_and_change_clothes() -> None:
    sampler = SceneSampler(coarse_face(), seed=1, size=SIZE, people=3)
    scenes = [sampler.scene(i) for i in range(30)]
    assert {s.person for s in scenes} == {0, 1, 2}
    mine = [s for s in scenes if s.person == 1]
    assert len({s.identity for s in mine}) == 1
    assert len({tuple(s.look["tone"]) for s in mine}) == 1
    assert len({tuple(s.look["cloth_colour"]) for s in mine}) == len(mine)


def test_emotions_are_their_action_units() -> None:
    for name, units in EMOTIONS.items():
        assert emotion_weights(name, 1.0) == expression_of(units)
    with pytest.raises(UsageError, match="happiness"):
        emotion_weights("joy", 1.0)


def test_converging_eyes_meet() -> None:
    (left, _), (right, _) = converging(0.0, 0.0, 0.5)
    assert left == -right == pytest.approx(math.degrees(math.atan(0.0315 / 0.5)))


def test_lids_follow_the_gaze() -> None:
    assert lids(25.0, 0.0)["eyeLookUp_L"] == 1
    assert lids(-12.5, 0.0)["eyeLookDown_R"] == 0.5
    assert lids(-12.5, 1.0)["eyeLookDown_R"] == 0


def test_bad_scenes_are_refused(sampler: SceneSampler, renderer: Renderer, frontal: Scene) -> None:
    good = json.loads(frontal.to_json())
    for line in ("{", "[]", "{}", json.dumps(good | {"version": 99})):
        with pytest.raises(UsageError):
            Scene.from_json(line)
    with pytest.raises(UsageError, match="camera"):
        Scene.from_dict({k: v for k, v in good.items() if k != "camera"})
    with pytest.raises(UsageError, match="surprise"):
        Scene.from_dict(good | {"surprise": 1})
    with pytest.raises(UsageError, match="mouthSmile"):
        renderer.render(replace(frontal, expression={"mouthSmil_L": 1.0}))
    with pytest.raises(UsageError, match="model 'ict'"):
        renderer.render(replace(frontal, model="ict"))
    with pytest.raises(UsageError, match="numbered"):
        sampler.scene(-1)
    with pytest.raises(UsageError, match="seed"):
        SceneSampler(coarse_face(), -1)
