"""Pictures of scenes: what is in them, and truth that fits them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.render import Scene, coarse_face, pose_of_rotation, sh_irradiance
from facewright.render.conventions import LABELS
from facewright.render.scene import Light
from facewright.render.shards import drawn_landmarks
from facewright.render.skin import linear_of_srgb

if TYPE_CHECKING:
    from facewright.render import Rendered, Renderer, SceneSampler

SIZE = 128


def test_landmarks_lie_where_the_vertices_project(picture: Rendered) -> None:
    """In plain numpy: vertices in metres through the pinhole."""
    camera, data = picture.camera, coarse_face()
    points = picture.vertices[data.landmarks68] / data.unit
    depth = camera.distance - points[:, 2]
    expected = camera.centre + camera.focal * points[:, :2] * [1, -1] / depth[:, None]
    np.testing.assert_allclose(picture.landmarks68.xy, expected, atol=1e-3)


def test_drawn_landmarks_are_at_their_place(picture: Rendered) -> None:
    """The centre of mass of each drawn dot, on black and alone, is the landmark to 0.1 px."""
    for number in (8, 30, 36, 54):
        one = replace(picture, clean=np.zeros_like(picture.clean))
        points = replace(picture.landmarks68, xy=picture.landmarks68.xy[[number]], visible=np.array([True]))
        weight = drawn_landmarks(replace(one, landmarks68=points))[..., 1].astype(float)
        ys, xs = np.mgrid[0:SIZE, 0:SIZE]
        centre = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()
        np.testing.assert_allclose(centre, picture.landmarks68.xy[number], atol=0.1)


def test_pose_is_the_rotation(renderer: Renderer, frontal: Scene) -> None:
    scene = replace(frontal, pose=(35.0, -12.0, 8.0))
    found = renderer.render(scene)
    angles = pose_of_rotation(torch.from_numpy(found.rotation)[None])[0]
    np.testing.assert_allclose(angles, scene.pose, atol=1e-3)
    # yaw > 0 turns the nose to the right, roll > 0 leans the head clockwise, as in Pose
    xy = found.landmarks68.xy
    assert xy[30, 0] > xy[[36, 45], 0].mean() + 3
    assert xy[42:48, 1].mean() > xy[36:42, 1].mean()


def test_mask_and_depth_share_their_edge(picture: Rendered) -> None:
    finite = np.isfinite(picture.depth)
    np.testing.assert_array_equal(picture.labels > 0, finite)
    np.testing.assert_array_equal(np.linalg.norm(picture.normals, axis=-1) > 0.5, finite)
    assert 0.5 < picture.depth[finite].min() < picture.depth[finite].max() < 0.9  # metres, camera at 0.7 m
    assert (picture.albedo[~finite] == 0).all()


def test_labels_lie_at_their_landmarks(picture: Rendered) -> None:
    xy = picture.landmarks68.xy

    def label(point: np.ndarray) -> str:
        x, y = (round(float(v)) for v in point)
        return LABELS[picture.labels[y, x]]

    assert label(xy[30]) == "nose"
    assert label((xy[19] + xy[18]) / 2) == "r_brow"  # the subject's right
    assert label((xy[24] + xy[25]) / 2) == "l_brow"
    assert label(xy[36:42].mean(0)) == "r_eye"
    assert label(xy[42:48].mean(0)) == "l_eye"
    assert label((xy[51] + xy[62]) / 2) == "u_lip"
    assert label((xy[57] + xy[66]) / 2) == "l_lip"
    assert picture.parsing19.max() < 19
    assert picture.easyportrait9.max() < 9
    assert picture.lapa11.max() < 11


def test_teeth_show_in_an_open_mouth(renderer: Renderer, frontal: Scene) -> None:
    found = renderer.render(replace(frontal, expression={"jawOpen": 0.7}))
    teeth = found.labels == LABELS.index("teeth")
    assert teeth.sum() > 5
    assert (found.easyportrait9[teeth] == 8).all()
    assert (found.parsing19[teeth] == 10).all()
    assert found.attributes["mouth_open"]


def test_gaze_moves_the_pupils(renderer: Renderer, frontal: Scene, picture: Rendered) -> None:
    """By the radius of the ball times the sine of the angle, at the pixel scale of its depth."""
    found = renderer.render(replace(frontal, gaze=((20.0, 0.0), (20.0, 10.0))))
    centre_depth = picture.camera.distance - (picture.vertices[:, 2] / coarse_face().unit).max() + 4
    moved = found.landmarks98.xy[96:] - picture.landmarks98.xy[96:]
    scale = picture.camera.focal / centre_depth
    radius = 1.5
    expected_x = radius * math.sin(math.radians(20)) * scale
    assert moved[0, 0] == pytest.approx(expected_x, rel=0.12)
    assert abs(moved[0, 1]) < 0.1
    assert moved[1, 1] == pytest.approx(-radius * math.sin(math.radians(10)) * scale, rel=0.12)
    np.testing.assert_allclose(found.looking[0], [math.sin(math.radians(20)), 0, math.cos(math.radians(20))], atol=1e-5)


def test_looking_is_gaze_turned_with_the_head(renderer: Renderer, frontal: Scene) -> None:
    """A head turned by 30° whose eyes look back by 30° looks into the camera."""
    found = renderer.render(replace(frontal, pose=(30.0, 0.0, 0.0), gaze=((-30.0, 0.0), (-30.0, 0.0))))
    np.testing.assert_allclose(found.looking, [[0, 0, 1]] * 2, atol=1e-5)


def test_blink_closes_the_lids(renderer: Renderer, frontal: Scene, picture: Rendered) -> None:
    found = renderer.render(replace(frontal, expression={"eyeBlink_L": 1.0, "eyeBlink_R": 1.0}))
    eyes = [LABELS.index("l_eye"), LABELS.index("r_eye")]
    assert np.isin(found.labels, eyes).sum() < 0.25 * np.isin(picture.labels, eyes).sum()
    assert max(found.eye_opening) < 0.3 * min(picture.eye_opening)
    assert found.blink == (1.0, 1.0)
    assert found.attributes["eyes_closed"]
    assert not picture.attributes["eyes_closed"]
    assert found.action_units["AU45"] == 5


def test_light_from_one_side(renderer: Renderer, frontal: Scene) -> None:
    dark = tuple((0.2,) + (0.0,) * 8 for _ in range(3))
    found = renderer.render(replace(frontal, light=Light(dark, (1.0, 0.0, 0.5), (3.0, 3.0, 3.0))))
    skin = found.labels == LABELS.index("skin")
    middle = found.landmarks68.xy[30, 0]
    columns = np.arange(SIZE)[None] * np.ones((SIZE, 1))
    left, right = (found.clean[skin & side].mean() for side in (columns < middle - 5, columns > middle + 5))
    assert right > 1.5 * left
    # the light in spherical harmonics is brightest from there as well
    ways = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    received = sh_irradiance(ways, torch.from_numpy(found.light))
    assert (received[0] > 2 * received[1]).all()


def test_further_lights_add_up_and_cast_shadows(renderer: Renderer, frontal: Scene) -> None:
    """The light of three is the sum of each alone; each has a shadow of its own."""
    none = ((0.0,) * 9,) * 3
    sides = [(1.0, 0.2, 0.6), (-1.0, 0.2, 0.6), (0.0, 1.0, 0.5)]
    weak = (0.35, 0.3, 0.25)
    backdrop = replace(frontal.backdrop, name="")
    scenes = [replace(frontal, backdrop=backdrop, light=Light(none, side, weak)) for side in sides]
    together = replace(scenes[0], light=Light(none, sides[0], weak, tuple((side, weak) for side in sides[1:])))
    alone = [linear_of_srgb(renderer.render(scene).clean / 255.0) for scene in scenes]
    found = renderer.render(together)
    inner = cv2.erode(np.isfinite(found.depth).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    skin = (found.labels == LABELS.index("skin")) & inner
    np.testing.assert_allclose(linear_of_srgb(found.clean / 255.0)[skin], sum(alone)[skin], atol=0.01)  # type: ignore[index]
    assert np.abs(alone[0] - alone[1])[skin].max() > 0.05
    np.testing.assert_allclose(found.light, sum(renderer.render(scene).light for scene in scenes), atol=1e-5)
    assert Scene.from_json(together.to_json()) == together
    with pytest.raises(UsageError, match="one to 3"):
        renderer.render(replace(together, light=replace(together.light, others=((sides[0], weak),) * 3)))
    with pytest.raises(UsageError, match="finite"):
        Light(none, sides[0], (float("nan"), 0.0, 0.0))


def test_curls_stay_off_a_moving_face(renderer: Renderer, frontal: Scene) -> None:
    for expression in ({"jawOpen": 0.8}, {"mouthShrugLower": 1.0, "mouthPucker": 1.0}):
        bald, curly = (
            renderer.render(replace(frontal, expression=expression, look=frontal.look | {"hair": hair}))
            for hair in ("bald", "curly")
        )
        assert curly.landmarks68.visible[27:].sum() == bald.landmarks68.visible[27:].sum()
        below = np.arange(SIZE)[:, None] > bald.landmarks68.xy[36:48, 1].max()
        inside = np.abs(np.arange(SIZE) - bald.landmarks68.xy[30, 0]) < 12
        assert not ((curly.labels == LABELS.index("hair")) & below & inside).any()


def test_lit_normals_of_hair_leave_the_truth_alone(renderer: Renderer, frontal: Scene) -> None:
    """Normals of a mesh's triangles vary from strand to strand, those of the light hardly."""
    found = renderer.render(replace(frontal, look=frontal.look | {"hair": "short"}))
    hair = found.labels == LABELS.index("hair")
    pair = hair[:, 1:] & hair[:, :-1]
    change = 1 - (found.normals[:, 1:] * found.normals[:, :-1]).sum(-1)[pair]
    assert np.median(change) > 0.02


def test_glasses_hat_and_hand_are_in_the_mask(renderer: Renderer, frontal: Scene) -> None:
    worn = frontal.look | {"hat": "beanie", "glasses": "square", "glasses_tint": 1.0, "occluder": "phone"}
    found = renderer.render(replace(frontal, look=worn | {"occluder_at": [0.0, 0.0]}))
    shown = {LABELS[i] for i in np.unique(found.labels)}
    assert {"hat", "eye_g", "occluder"} <= shown
    assert "l_eye" not in shown
    assert not found.landmarks98.visible[96:].any()
    assert not found.points5.visible[:2].any()
    assert found.attributes["sunglasses"]
    clear = renderer.render(replace(frontal, look=frontal.look | {"glasses": "square", "glasses_tint": 0.0}))
    assert clear.landmarks98.visible[96:].all()
    assert not clear.attributes["sunglasses"]


def test_effects_are_on_record(sampler: SceneSampler, renderer: Renderer) -> None:
    from facewright.degrade import Degradation, apply

    index = next(i for i in range(50) if sampler.scene(i).effects.chain.noise is not None)
    found = renderer.render(sampler.scene(index))
    record = Degradation.from_dict(json.loads(json.dumps(found.truth()["scene"]["effects"])))
    np.testing.assert_array_equal(apply(found.clean, record), found.rgb)
    assert (found.clean != found.rgb).any()


def test_truth_is_json(picture: Rendered) -> None:
    truth = json.loads(json.dumps(picture.truth()))
    assert Scene.from_dict(truth["scene"]) == picture.scene
    assert len(truth["landmarks98"]["xy"]) == 98
    assert truth["pose"] == {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}
