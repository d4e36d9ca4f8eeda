"""Self-training: how views vote, what becomes a label, when rounds stop, and that MOS learns from such labels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from facewright.data.detection import BOX, BOX_ONLY, COLUMNS, FACE, IGNORED, LABEL
from facewright.errors import UsageError
from facewright.face import Face
from facewright.metrics.detection import Detections
from facewright.systems.detect.mos.network import MOS, MOSConfig
from facewright.systems.detect.operating_room import network as room
from facewright.systems.detect.operating_room.network import MOSStudent, SelfTraining, View

POINTS5 = np.zeros((5, 2), np.float32)
SINGLE = SelfTraining(scales=(1.0,), mirrored=False, least_views=1)


def picture(*blobs: tuple[int, int, int, int, int], size: tuple[int, int] = (80, 120)) -> np.ndarray:
    """Bright rectangles (x, y, width, height, brightness) on black."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y, width, height, level in blobs:
        image[y : y + height, x : x + width] = level
    return image


def labels(*boxes: tuple[float, float, float, float], kind: float = FACE) -> np.ndarray:
    rows = np.zeros((len(boxes), COLUMNS), np.float32)
    if boxes:
        rows[:, BOX], rows[:, LABEL] = boxes, kind
    return rows


class BlobDetector:
    """Finds rectangles and scores them by brightness / 255 + `bonus`; learning raises the bonus."""

    def __init__(self, bonus: float = 0.0, step: float = 0.0) -> None:
        self.bonus, self.step = bonus, step
        self.taught: list[list[tuple[np.ndarray, np.ndarray]]] = []
        self.spoil: float | None = None

    def detect(self, image: np.ndarray, *, threshold: float) -> list[Face]:
        faces = []
        outlines, _ = cv2.findContours((image[..., 0] > 8).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for outline in outlines:
            x, y, width, height = cv2.boundingRect(outline)
            middle = image[y + height // 2, x + width // 2, 0]
            score = float(np.clip(middle / 255 + self.bonus, 0, 1))
            if score >= threshold:
                faces.append(Face(np.array([x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5]), score, POINTS5))
        return sorted(faces, key=lambda f: -f.score)

    def learn(self, labelled: list, *, round_number: int) -> None:
        self.taught.append(list(labelled))
        self.bonus = self.bonus + self.step if self.spoil is None else self.spoil

    def snapshot(self) -> float:
        return self.bonus

    def restore(self, state: float) -> None:
        self.bonus = state


def test_views_come_back_to_the_pixels_of_the_picture() -> None:
    image = picture((20, 16, 40, 32, 200))
    looks = room.views(BlobDetector(), image, SelfTraining(scales=(0.5, 1.0, 1.5, 2.0)))
    assert len(looks) == 8
    for look in looks:
        np.testing.assert_allclose(look.boxes, [[19.5, 15.5, 59.5, 47.5]], atol=1.1)


def test_a_vote_takes_one_box_of_each_view_and_weighs_by_score() -> None:
    rules = SelfTraining(least_views=3)
    box = np.array([10.0, 10, 30, 30])
    looks = [
        View(np.stack([box, box + 2, box + 100]), np.array([0.9, 0.8, 0.6])),
        View((box + 1)[None], np.array([0.3])),
        View((box + 1)[None], np.array([0.6])),
        View(np.zeros((0, 4)), np.zeros(0)),
    ]
    found = room.vote(looks, rules)
    assert len(found.boxes) == 2
    np.testing.assert_allclose(found.boxes[0], box + (0.3 + 0.6) / 1.8)
    np.testing.assert_allclose(found.scores, [(0.9 + 0.3 + 0.6) / 3, 0.6 / 3])


def test_a_face_of_few_views_is_left_out_however_sure_one_view_is() -> None:
    looks = [View(np.array([[0, 0, 9, 9.0]]), np.array([0.99]))] + [View(np.zeros((0, 4)), np.zeros(0))] * 7
    found = room.vote(looks, SelfTraining())
    assert found.scores[0] == pytest.approx(0.33)
    assert len(room.vote(looks[1:], SelfTraining()).boxes) == 0


def test_labels_have_three_kinds() -> None:
    found = Detections(np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9.0]]), np.array([0.9, 0.5, 0.1]))
    rows = room.label_rows(found, found.scores >= 0.7, 0.2)
    assert rows[:, LABEL].tolist() == [BOX_ONLY, IGNORED]
    assert rows[:, BOX].tolist() == [[0, 0, 9, 9], [20, 0, 29, 9]]


def test_frames_confirm_and_recover_each_other() -> None:
    def moving(x: float, score: float) -> tuple[list[float], float]:
        return [x, 0, x + 20, 20], score

    frames = [
        [moving(0, 0.3), moving(200, 0.9)],  # a track that gets sure later; a flash
        [moving(4, 0.9)],
        [moving(8, 0.25), moving(100, 0.3)],
        [moving(100, 0.3)],  # never sure
    ]
    found = [Detections(np.array([b for b, _ in f]), np.array([s for _, s in f])) for f in frames]
    sure = room.link_frames(found, [f.scores >= 0.7 for f in found], 0.5)
    assert [s.tolist() for s in sure] == [[True, False], [True], [True, False], [False]]


def test_frames_without_detections_part_tracks() -> None:
    one = Detections(np.array([[0, 0, 20, 20.0]]), np.array([0.9]))
    sure = room.link_frames(
        [one, Detections(), one, one], [np.array([True]), np.zeros(0, bool)] + [np.array([True])] * 2, 0.5
    )
    assert [s.tolist() for s in sure] == [[False], [], [True], [True]]


def test_the_threshold_is_calibrated_on_source_pictures() -> None:
    holdout = [
        (
            picture((10, 10, 20, 20, 250), (60, 10, 20, 20, 150)),
            labels((9.5, 9.5, 29.5, 29.5), (59.5, 9.5, 79.5, 29.5)),
        ),
        (picture((10, 10, 20, 20, 100)), labels()),
    ]
    assert room.calibrated_threshold(BlobDetector(), holdout, SINGLE) == pytest.approx(150 / 255)
    wrong = [(image, labels((90, 60, 99, 69))) for image, _ in holdout]
    with pytest.raises(UsageError, match="95% precision"):
        room.calibrated_threshold(BlobDetector(), wrong, SINGLE)


def test_ignored_source_faces_do_not_move_the_threshold() -> None:
    image = picture((10, 10, 20, 20, 250), (60, 10, 20, 20, 200))
    rows = np.concatenate([labels((9.5, 9.5, 29.5, 29.5)), labels((59.5, 9.5, 79.5, 29.5), kind=IGNORED)])
    assert room.calibrated_threshold(BlobDetector(), [(image, rows)], SINGLE) == pytest.approx(250 / 255)


HOLDOUT = [(picture((10, 10, 20, 20, 200)), labels((9.5, 9.5, 29.5, 29.5)))]


def test_rounds_label_learn_and_report() -> None:
    target = picture((10, 10, 20, 20, 240), (60, 10, 20, 20, 95), (60, 50, 20, 20, 40))
    dim = [(picture((10, 10, 20, 20, 100)), labels((9.5, 9.5, 29.5, 29.5)))]
    student = BlobDetector(step=0.7)  # surer of everything after each round
    seen = []
    rounds = room.adapt(student, [[target]], dim, SINGLE, report=lambda r, labelled: seen.append((r, labelled)))  # type: ignore[arg-type]
    assert [r.number for r in rounds] == [0, 1, 2]
    assert [(r.positives, r.ignored) for r in rounds] == [(1, 1), (2, 1), (3, 0)]
    assert [r.repeated for r in rounds] == pytest.approx([0, 2 / 3, 4 / 5])
    assert rounds[0].threshold == pytest.approx(100 / 255)
    assert all(r.kept and r.source_ap == 1 for r in rounds)
    assert [r for r, _ in seen] == rounds
    image, rows = student.taught[0][0]
    assert image is target
    np.testing.assert_allclose(rows[rows[:, LABEL] == BOX_ONLY][:, BOX], [[9.5, 9.5, 29.5, 29.5]])


def test_rounds_stop_when_labels_repeat() -> None:
    student = BlobDetector()
    rounds = room.adapt(student, [[picture((10, 10, 20, 20, 240))]], HOLDOUT, SINGLE)  # type: ignore[arg-type]
    assert len(rounds) == 1
    assert len(student.taught) == 1


def test_a_round_that_forgets_the_source_is_undone() -> None:
    student = BlobDetector()
    student.spoil = -1.0
    rounds = room.adapt(student, [[picture((10, 10, 20, 20, 240))]], HOLDOUT, SINGLE)  # type: ignore[arg-type]
    assert [r.kept for r in rounds] == [False]
    assert rounds[0].source_ap == 0
    assert student.bonus == 0


def test_repeated_share_counts_both_ways() -> None:
    image = picture()
    old = [(image, labels((0, 0, 9, 9), (20, 0, 29, 9), kind=BOX_ONLY))]
    new = [(image, labels((0, 0, 9, 9), kind=BOX_ONLY))]
    assert room.repeated_share(old, old) == 1
    assert room.repeated_share(old, new) == pytest.approx(2 / 3)
    assert room.repeated_share([], new) == 0


@pytest.mark.parametrize("bad", [{"ignored": 0.9}, {"candidate": 0.0}, {"least_views": 9}, {"positive": 1.0}])
def test_impossible_rules_are_refused(bad: dict) -> None:
    with pytest.raises(UsageError):
        SelfTraining(**bad)


def test_nothing_to_adapt_to_or_to_judge_by_is_said() -> None:
    for sequences, holdout in (([], HOLDOUT), ([[]], HOLDOUT), ([[picture()]], [])):
        with pytest.raises(UsageError, match="one is missing"):
            room.adapt(BlobDetector(), sequences, holdout)  # type: ignore[arg-type]


class BlobScenes:
    """Source scenes: one bright square on noise."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        x, y = rng.integers(2, 40, 2)
        image[y : y + 20, x : x + 20] = 230
        rows = labels((x - 0.5, y - 0.5, x + 19.5, y + 19.5), kind=BOX_ONLY)
        return {"image": torch.from_numpy(image).permute(2, 0, 1), "faces": torch.from_numpy(rows)}


def small_mos() -> MOS:
    torch.manual_seed(0)
    return MOS(MOSConfig("shufflenetv2", width=0.25, fpn=16, deformable=False, pose_hidden=8, bin_centre=True))


def face_logits(model: MOS, image: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        logits = model.eval()(model.normalise(image[None])).logits[0]
    return logits[:, 1] - logits[:, 0]


def test_mos_learns_labels_stays_silent_on_ignored_and_can_go_back() -> None:
    target = picture((10, 10, 20, 20, 250), (40, 40, 20, 20, 250), size=(64, 64))
    rows = np.concatenate(
        [labels((9.5, 9.5, 29.5, 29.5), kind=BOX_ONLY), labels((39.5, 39.5, 59.5, 59.5), kind=IGNORED)]
    )
    model = small_mos()
    student = MOSStudent(model, BlobScenes(), steps=12, batch_size=4, lr=3e-3, size=64)  # type: ignore[arg-type]
    before = face_logits(model, target)
    state = student.snapshot()
    statistics = model.backbone.stages[0][0][1].running_mean.clone()  # type: ignore[index]
    student.learn([(target, rows)], round_number=0)
    assert torch.equal(model.backbone.stages[0][0][1].running_mean, statistics)  # type: ignore[index]  # frozen in the first round
    after = face_logits(model, target)
    assert not model.training
    assert after.mean() < before.mean() - 0.3  # background was learned
    assert (after.max() - after.mean()) > (before.max() - before.mean())
    student.learn([(target, rows)], round_number=1)
    assert not torch.equal(model.backbone.stages[0][0][1].running_mean, statistics)  # type: ignore[index]
    student.restore(state)
    torch.testing.assert_close(face_logits(model, target), before)
