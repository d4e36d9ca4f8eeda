"""Pictures prepared once: what is drawn, pairs, partial augmentation, and a stream of tasks with its replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.data.prepared import Prepared, TaskStream, read_prepared, write_prepared
from facewright.errors import FacewrightError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 16


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Six pairs; a picture's value says its row, its left half is darker."""
    image = np.repeat(10 * np.arange(12, dtype=np.uint8), SIDE * SIDE * 3).reshape(12, SIDE, SIDE, 3)
    image[:, :, SIDE // 2 :] += 3
    write_prepared(tmp_path, "train", {"image": image, "kind": np.arange(12) % 2})
    return tmp_path


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Three makers of twenty pictures, ten real and ten fake; a picture's value is its row."""
    rows = np.arange(60)
    image = np.repeat(rows.astype(np.uint8), SIDE * SIDE * 3).reshape(60, SIDE, SIDE, 3)
    write_prepared(tmp_path, "train", {"image": image, "label": rows % 2, "task": rows // 20})
    return tmp_path


def rows_of(data: Prepared, count: int) -> list[int]:
    return [int(data[i]["image"][0, 0, 0]) for i in range(count)]


def test_items_are_a_function_of_seed_and_index(pairs: Path) -> None:
    first, again, other = (rows_of(Prepared(str(pairs), seed=seed), 40) for seed in (0, 0, 1))
    assert first == again != other
    assert set(first) == set(range(0, 120, 10))


def test_pairs_come_together(pairs: Path) -> None:
    data = Prepared(str(pairs), pairs=True)
    rows = np.array(rows_of(data, 40)).reshape(20, 2) // 10
    assert (rows[:, 1] == rows[:, 0] + 1).all()
    assert (rows[:, 0] % 2 == 0).all()
    assert len(np.unique(rows[:, 0])) > 3
    assert [int(data[i]["kind"]) for i in range(4)] == [0, 1, 0, 1]


def test_half_of_the_pictures_are_mirrored(pairs: Path) -> None:
    data = Prepared(str(pairs), flip=True)
    mirrored = [bool(data[i]["image"][0, 0, 0] % 10) for i in range(100)]
    assert 30 < sum(mirrored) < 70


@pytest.mark.parametrize(("worn", "changed"), [("", (False, False)), ("real", (True, False)), ("all", (True, True))])
def test_only_what_is_asked_for_is_stored_anew(pairs: Path, worn: str, changed: tuple[bool, bool]) -> None:
    plain, other = Prepared(str(pairs), pairs=True), Prepared(str(pairs), pairs=True, worn=worn)  # type: ignore[arg-type]
    for kind in (0, 1):
        different = [not torch.equal(plain[i]["image"], other[i]["image"]) for i in range(kind, 20, 2)]
        assert any(different) == changed[kind]


def test_places_cannot_be_mirrored(pairs: Path) -> None:
    arrays = read_prepared(pairs, "train")
    write_prepared(pairs, "train", arrays | {"mask": np.zeros((12, 1, SIDE, SIDE), np.uint8)})
    assert Prepared(str(pairs))[0]["mask"].shape == (1, SIDE, SIDE)
    with pytest.raises(UsageError, match="mirrored"):
        Prepared(str(pairs), flip=True)


def test_folders_of_something_else_are_refused(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(FacewrightError, match="no prepared pictures for val"):
        Prepared(str(pairs), "val")
    with pytest.raises(UsageError, match="one length"):
        write_prepared(tmp_path, "val", {"image": np.zeros((2, 4, 4, 3), np.uint8), "kind": np.zeros(3)})
    with pytest.raises(UsageError, match="worn"):
        Prepared(str(pairs), worn="both")  # type: ignore[arg-type]
    np.save(pairs / "train-kind.npy", np.zeros(5))
    with pytest.raises(FacewrightError, match="prepare them again"):
        Prepared(str(pairs))


def test_a_task_comes_with_three_fakes_and_three_reals_of_every_earlier_one(stream: Path) -> None:
    kept = np.array([[[40, 42, 44, 46], [41, 43, 45, 47]], [[0, 2, 4, 6], [1, 3, 5, 7]]])  # of the makers 2 and 0
    np.save(stream / "replay.npy", kept)
    data = TaskStream(str(stream), order=[2, 0, 1], position=2, new=5, replay=str(stream / "replay.npy"))
    assert data.batch_size == 17
    for batch in range(3):
        items = [data[batch * 17 + i] for i in range(17)]
        rows = [int(item["image"][0, 0, 0]) for item in items]
        assert [int(item["task"]) for item in items] == [0] * 6 + [1] * 6 + [2] * 5
        assert [int(item["label"]) for item in items][:12] == [1, 1, 1, 0, 0, 0] * 2
        assert len(set(rows[:12])) == 12
        assert set(rows[:3]) <= {41, 43, 45, 47}
        assert set(rows[6:9]) <= {1, 3, 5, 7}
        assert all(20 <= row < 40 for row in rows[12:])


def test_the_first_task_and_one_head(stream: Path) -> None:
    data = TaskStream(str(stream), order=[1, 0, 2], position=1, new=4, one_head=True)
    assert data.batch_size == 4
    assert {int(data[i]["task"]) for i in range(20)} == {0}
    assert all(row < 20 for row in rows_of(data, 20))


def test_streams_that_do_not_fit_are_refused(stream: Path) -> None:
    np.save(stream / "replay.npy", np.zeros((1, 2, 4), np.int64))
    with pytest.raises(UsageError, match="no task 3"):
        TaskStream(str(stream), order=[0, 1, 2], position=3)
    with pytest.raises(FacewrightError, match="of another one"):
        TaskStream(str(stream), order=[0, 1, 2], position=2, replay=str(stream / "replay.npy"))
