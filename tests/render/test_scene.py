"""Scenes: drawn by seed, kept as JSON, rendered to the same bytes, with truth that fits the picture."""

from __future__ import annotations

import json
import math
import tarfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from facewright.errors import ImageReadError, UsageError
from facewright.render import coarse_face, pose_of_rotation, sh_irradiance
from facewright.render.action_units import expression_of
from facewright.render.scene import (
    EMOTIONS,
    Backgrounds,
    Light,
    Rendered,
    Renderer,
    Scene,
    SceneSampler,
    converging,
    emotion_weights,
    lids,
    procedural_background,
    srgb_from_linear,
)
from facewright.render.shards import drawn_landmarks
from facewright.render.truth import LABELS

SIZE = 128
PLAIN = {"hat": "none", "glasses": "none", "occluder": "none", "hair": "bald", "fringe": False}


@pytest.fixture(scope="module")
def sampler() -> SceneSampler:
    return SceneSampler(coarse_face(), seed=3, size=SIZE)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(coarse_face())


@pytest.fixture(scope="module")
def frontal(sampler: SceneSampler) -> Scene:
    """A bald person who looks straight ahead at a camera without effects."""
    scene = sampler.scene(0)
    scene = replace(scene, pose=(0.0, 0.0, 0.0), gaze=((0.0, 0.0), (0.0, 0.0)), expression={}, look=scene.look | PLAIN)
    camera = replace(scene.camera, focal=0.5 * SIZE * 70 / 13, distance=70.0, centre=(63.5, 63.5))
    return replace(
        scene, camera=camera, effects=SceneSampler(coarse_face(), 0, size=SIZE, effects=False).scene(0).effects
    )


@pytest.fixture(scope="module")
def picture(renderer: Renderer, frontal: Scene) -> Rendered:
    return renderer.render(frontal)


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


def test_srgb_is_the_standard() -> None:
    values = np.array([0.0, 0.0031308, 0.18, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(srgb_from_linear(values), [0, 0.04045, 0.46135, 1, 1], atol=1e-4)


def test_backgrounds_of_folder_and_tar_are_equal(tmp_path, renderer: Renderer, frontal: Scene) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(folder / name, name)
    sources = [Backgrounds(folder), Backgrounds(tmp_path / "all.tar")]
    assert sources[0].names == sources[1].names == ("a.png", "b.png")
    np.testing.assert_array_equal(sources[0].picture("b.png"), sources[1].picture("b.png"))
    scene = replace(frontal, backdrop=replace(frontal.backdrop, name="a.png", box=(0.0, 0.0, 1.0)))
    shown = Renderer(coarse_face(), backgrounds=sources[1]).render(scene)
    cut = cv2.resize(sources[0].picture("a.png")[:90, :90], (SIZE, SIZE))
    np.testing.assert_allclose(shown.clean[0, :20].astype(int), cut[0, :20].astype(int), atol=2)
    with pytest.raises(UsageError, match="--backgrounds"):
        renderer.render(scene)
    with pytest.raises(UsageError, match="not in"):
        Renderer(coarse_face(), backgrounds=sources[0]).render(
            replace(scene, backdrop=replace(scene.backdrop, name="c.png"))
        )


def test_procedural_background_differs_by_seed() -> None:
    first = procedural_background(1, (40, 30))
    assert first.shape == (30, 40, 3)
    assert 0 <= first.min() < first.max() <= 1
    np.testing.assert_array_equal(first, procedural_background(1, (40, 30)))
    assert np.abs(first - procedural_background(2, (40, 30))).mean() > 0.02


def test_bad_scenes_are_refused(sampler: SceneSampler, renderer: Renderer, frontal: Scene, tmp_path) -> None:
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
    with pytest.raises(ImageReadError, match="backgrounds"):
        Backgrounds(tmp_path)
    (tmp_path / "no.tar").write_bytes(b"not a tar")
    with pytest.raises(ImageReadError, match=r"no\.tar"):
        Backgrounds(tmp_path / "no.tar")
