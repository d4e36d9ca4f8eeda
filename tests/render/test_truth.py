"""Truth about rendered faces: landmark maps, visibility, classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.render import Camera, MorphableModel, coarse_face, place, rotation_from_pose
from facewright.render.conventions import (
    CELEBAMASK_19,
    EASYPORTRAIT_9,
    LABELS,
    LAPA_11,
    class_table,
    label_of_part,
    visible98,
    weights98,
)
from facewright.render.truth import (
    Points,
    eye_openings,
    five,
    landmarks98,
    mouth_opening,
    pupil_vertices,
    seen,
)

SIZE = 200


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return MorphableModel(coarse_face())


@pytest.mark.parametrize("names", [CELEBAMASK_19, EASYPORTRAIT_9, LAPA_11])
def test_every_label_has_a_class(names: tuple[str, ...]) -> None:
    table = class_table(names)
    assert table.shape == (len(LABELS),)
    assert table.max() < len(names)
    assert table[0] == 0
    assert set(table.tolist()) == set(range(len(names)))


def test_classes_keep_their_meaning() -> None:
    def mapped(names: tuple[str, ...], label: str) -> str:
        return names[class_table(names)[LABELS.index(label)]]

    assert all(mapped(CELEBAMASK_19, name) == name for name in CELEBAMASK_19)
    for name in ("l_brow", "r_brow", "l_eye", "r_eye"):
        assert mapped(EASYPORTRAIT_9, name) == mapped(LAPA_11, name) == name
    assert mapped(CELEBAMASK_19, "teeth") == mapped(LAPA_11, "teeth") == "mouth"
    assert mapped(EASYPORTRAIT_9, "teeth") == "teeth"
    assert mapped(EASYPORTRAIT_9, "u_lip") == mapped(EASYPORTRAIT_9, "l_lip") == "lips"
    assert mapped(EASYPORTRAIT_9, "nose") == "skin"
    assert mapped(EASYPORTRAIT_9, "hair") == "person"
    assert mapped(LAPA_11, "neck") == "background"


def test_celebamask_numbers_are_the_published_ones() -> None:
    published = {"skin": 1, "nose": 2, "eye_g": 3, "l_eye": 4, "r_brow": 7, "mouth": 10, "hair": 13, "cloth": 18}
    assert {name: CELEBAMASK_19.index(name) for name in published} == published


def test_unknown_classes_and_parts_are_named() -> None:
    with pytest.raises(UsageError, match="CELEBAMASK_19"):
        class_table(("a", "b"))
    with pytest.raises(UsageError, match="tail"):
        label_of_part("tail")


def test_98_points_from_68() -> None:
    weights = weights98()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    # the published correspondence of WFLW with iBUG
    for wflw, ibug in {
        0: 0,
        16: 8,
        32: 16,
        33: 17,
        46: 26,
        54: 30,
        60: 36,
        64: 39,
        72: 45,
        76: 48,
        82: 54,
        95: 67,
    }.items():
        assert weights[wflw, ibug] == 1
    assert weights[1, 0] == weights[1, 1] == 0.5


def test_98_points_are_symmetric() -> None:
    """A mirrored face has the mirrored points of WFLW's flip table."""
    rest = torch.from_numpy(coarse_face().mean[coarse_face().landmarks68])[None]
    pupils = torch.tensor([[[-3.0, 2.6, 7.8], [3.0, 2.6, 7.8]]])
    points = landmarks98(rest, pupils)[0].numpy()
    pairs = [(0, 32), (5, 27), (33, 46), (37, 42), (38, 50), (41, 47), (60, 72), (62, 70), (64, 68), (67, 73), (76, 82)]
    for left, right in [*pairs, (66, 74), (96, 97)]:
        np.testing.assert_allclose(points[left] * [-1, 1, 1], points[right], atol=0.35)
    brow, lower = points[33:38, 1].mean(), points[38:42, 1].mean()
    assert lower < brow


def test_point_between_landmarks_needs_both() -> None:
    visible = np.ones(68, bool)
    visible[3] = False
    hidden = np.flatnonzero(~visible98(visible))
    assert hidden.tolist() == [5, 6, 7]
    visible = np.ones(68, bool)
    visible[36:42] = False
    assert visible98(visible)[33:42].all()


def test_pupils_are_the_balls_poles() -> None:
    data = coarse_face()
    left, right = data.mean[pupil_vertices(data)]
    np.testing.assert_allclose(left, [-3.0, 2.6, 7.8], atol=1e-4)
    np.testing.assert_allclose(right, [3.0, 2.6, 7.8], atol=1e-4)


def test_seen_by_hand() -> None:
    """One triangle at depth 9 before points at depths 8, 9 and 10, beside it and outside the picture."""
    camera = Camera(100, 100, 100.0, (50.0, 50.0), 10.0)
    wall = torch.tensor([[[-3.0, -3.0, 1.0], [3.0, -3.0, 1.0], [0.0, 3.0, 1.0]]])
    points = torch.tensor(
        [[[0.0, 0, 2], [0.0, 0, 1], [0.0, 0, 0.98], [0.0, 0, 0.0], [2.5, 2.0, 0.0], [0.0, -20, 0.0], [0, 0, 11.0]]]
    )
    screen, corners = camera.project(wall), torch.tensor([[0, 1, 2]])
    visible = seen(camera.project(points), screen, corners, (100, 100), tolerance=0.05)
    assert visible.tolist() == [True, True, True, False, True, False, False]
    turned = seen(camera.project(points), screen, corners.flip(1), (100, 100), tolerance=0.05)
    assert turned.tolist() == visible.tolist()


def test_half_profile_hides_the_far_side(model: MorphableModel) -> None:
    camera = Camera.from_fov(SIZE, 20, 80)
    turned = place(model.vertices(), rotation_from_pose(torch.tensor([[60.0, 0, 0]])))  # nose to the picture's right
    points, screen = camera.project(model.landmarks(turned)), camera.project(turned)
    visible = seen(points, screen, model.topology.triangles, (SIZE, SIZE), 0.15)
    assert visible[:6].all()
    assert not visible[13:17].any()
    assert visible[36:42].all()


def test_openings_follow_lids_and_jaw(model: MorphableModel) -> None:
    def openings(**weights: float) -> tuple[tuple[float, float], float]:
        points = model.landmarks(model.vertices(None, model.expression_weights(weights)))[0]
        return eye_openings(points), mouth_opening(points)

    (left, right), mouth = openings()
    (shut, other), _ = openings(eyeBlink_R=1.0)
    assert shut < 0.25 * left
    assert other == pytest.approx(right)
    assert openings(jawOpen=0.8)[1] > mouth + 0.4


def test_five_points_and_their_visibility() -> None:
    xy = np.arange(136, dtype=np.float32).reshape(68, 2)
    visible = np.ones(68, bool)
    visible[36:40] = False
    visible[54] = False
    points = five(Points(xy, visible))
    np.testing.assert_allclose(points.xy[0], xy[36:42].mean(0))
    np.testing.assert_allclose(points.xy[2], xy[30])
    assert points.visible.tolist() == [False, True, True, True, False]
