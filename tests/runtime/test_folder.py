"""Folder runs: names and formats kept, bad files passed by, interruptions survived."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.errors import OutputError, UsageError
from facewright.io.image import read
from facewright.io.kinds import OWN_FOLDER
from facewright.runtime.folder import Job, SaveOptions, plan, run
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from facewright.runtime.folder import Summary

SAVE = SaveOptions()


@pytest.fixture
def album(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    folder = tmp_path / "album"
    (folder / "1952").mkdir(parents=True)
    pictures = [Image.fromarray(fakes.textured(60, 80, seed=i)) for i in range(5)]
    pictures[0].save(folder / "a.JPG", quality=95)
    pictures[1].save(folder / "b.png")
    pictures[2].save(folder / "1952" / "b.png")
    pictures[3].save(folder / "c.webp", lossless=True)
    pictures[4].save(folder / "d.tiff")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes((folder / "b.png").read_bytes())
    return folder


NAMES = ["1952/b.png", "a.JPG", "b.png", "c.webp", "d.tiff"]


def files(folder: Path) -> list[str]:
    """What a folder holds, without the records of the runs."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(p) for p in found if p.parts[0] != OWN_FOLDER)


def restore(album: Path, pipeline: Any, save: SaveOptions = SAVE, **options: Any) -> Summary:
    return run(plan(album, album.parent / "out"), pipeline, RestoreOptions(), save, **options)


@pytest.fixture
def pipeline(fakes: SimpleNamespace) -> Any:
    return fakes.pipeline(fakes.face_at((40, 30), 16))


def test_names_formats_and_sizes_are_kept(album: Path, pipeline: Any) -> None:
    summary = restore(album, pipeline)
    out = album.parent / "out"
    assert files(out) == NAMES
    assert (summary.exit_code, summary.failed, summary.already_done) == (0, [], 0)
    for name in NAMES:
        before, after = read(album / name), read(out / name)
        assert (after.format, after.pixels.shape) == (before.format, before.pixels.shape)
        assert np.abs(after.pixels.astype(int) - before.pixels).max() > 5
    assert [o.job.source.name for o in summary.outcomes] == [Path(n).name for n in NAMES]
    assert all(o.summary == "1 of 1 face restored" and o.report is not None for o in summary.outcomes)


def test_originals_are_not_touched(album: Path, pipeline: Any) -> None:
    before = {p: p.read_bytes() for p in album.rglob("*") if p.is_file()}
    restore(album, pipeline)
    assert {p: p.read_bytes() for p in album.rglob("*") if p.is_file()} == before


def test_bad_files_never_stop_the_rest(album: Path, pipeline: Any) -> None:
    (album / "aa.jpg").write_bytes(b"")
    (album / "bb.png").write_text("text, not a picture")
    summary = restore(album, pipeline)
    assert files(album.parent / "out") == NAMES
    assert summary.exit_code == 1
    assert [o.job.source.name for o in summary.failed] == ["aa.jpg", "bb.png"]
    for outcome in summary.failed:
        assert outcome.job.source.name in str(outcome.error)
        assert "\n" not in str(outcome.error)


def test_unexpected_errors_never_stop_the_rest_either(album: Path, pipeline: Any) -> None:
    def fragile(photo: Any, options: Any) -> Any:
        if photo.source.endswith("b.png"):
            raise RuntimeError("a bug")
        if photo.source.endswith("c.webp"):
            raise MemoryError
        return pipeline(photo, options)

    summary = restore(album, fragile)
    assert [o.job.source.name for o in summary.failed] == ["b.png", "b.png", "c.webp"]
    assert "unexpected RuntimeError: a bug" in str(summary.failed[0].error)
    assert "not enough memory" in str(summary.failed[2].error)
    assert files(album.parent / "out") == ["a.JPG", "d.tiff"]


def test_all_failed_is_exit_code_two(tmp_path: Path, pipeline: Any) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "a.jpg").write_bytes(b"")
    assert restore(tmp_path / "album", pipeline).exit_code == 2


def test_existing_outputs_are_kept_replaced_or_passed_over(album: Path, pipeline: Any) -> None:
    out = album.parent / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    first = restore(album, pipeline)
    assert (len(first.outcomes), first.already_done, first.failed, first.exit_code) == (4, 1, [], 0)
    assert (out / "b.png").read_bytes() == b"mine"

    calls = len(pipeline.restorer.seen)
    resumed = restore(album, pipeline, resume=True)
    assert (resumed.already_done, resumed.outcomes, resumed.exit_code) == (5, [], 0)
    again = restore(album, pipeline, SaveOptions(overwrite=True), resume=True)
    assert (again.already_done, again.outcomes, again.exit_code) == (5, [], 0)
    assert len(pipeline.restorer.seen) == calls

    replaced = restore(album, pipeline, SaveOptions(overwrite=True))
    assert (len(replaced.outcomes), replaced.already_done, replaced.exit_code) == (5, 0, 0)
    assert (out / "b.png").read_bytes() != b"mine"


def test_ctrl_c_leaves_only_whole_files_and_resume_does_the_rest(album: Path, pipeline: Any) -> None:
    calls = 0

    def interrupted(photo: Any, options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return pipeline(photo, options)

    with pytest.raises(KeyboardInterrupt):
        restore(album, interrupted)
    out = album.parent / "out"
    done = files(out)
    assert done == NAMES[:2]
    stamps = {n: (out / n).stat().st_mtime_ns for n in done}
    summary = restore(album, pipeline, resume=True)
    assert files(out) == NAMES
    assert (summary.already_done, len(summary.outcomes)) == (2, 3)
    assert {n: (out / n).stat().st_mtime_ns for n in done} == stamps
    for name in NAMES:
        read(out / name)


def test_full_disk_is_reported_for_every_file_and_leaves_nothing(
    album: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    summary = restore(album, pipeline)
    assert len(summary.failed) == 5
    assert all("disk is full" in str(o.error) for o in summary.failed)
    assert files(album.parent / "out") == []


def test_options_of_saving_apply(album: Path, pipeline: Any) -> None:
    from facewright.io.provenance import read_provenance

    out = album.parent / "out"
    restore(album, pipeline)
    assert read_provenance(out / "b.png") is not None
    fine = (out / "a.JPG").stat().st_size
    restore(album, pipeline, SaveOptions(overwrite=True, quality=20, provenance=False))
    assert read_provenance(out / "b.png") is None
    assert (out / "a.JPG").stat().st_size < 0.6 * fine


def test_too_many_pixels_is_one_failure(album: Path, pipeline: Any) -> None:
    Image.new("RGB", (300, 300)).save(album / "large.png")
    summary = restore(album, pipeline, SaveOptions(max_pixels=10_000))
    assert [o.job.source.name for o in summary.failed] == ["large.png"]


def test_progress_is_told_file_by_file(album: Path, pipeline: Any) -> None:
    (album / "bb.png").write_text("text")
    seen: list[str] = []
    restore(album, pipeline, on_done=lambda outcome: seen.append(outcome.job.source.name))
    assert sorted(seen) == sorted([*(Path(n).name for n in NAMES), "bb.png"])


# --- planning


def test_plan_refuses_what_would_lose_originals(album: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="originals"):
        plan(album, album / "1952" / "..")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        plan(album, tmp_path / "file")


def test_plan_of_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photo or video"):
        plan(tmp_path, tmp_path / "out")


def test_output_inside_the_album_is_not_restored_again(album: Path, pipeline: Any) -> None:
    inside = album / "restored"
    run(plan(album, inside), pipeline, RestoreOptions(), SAVE)
    again = plan(album, inside)
    assert [str(j.source.relative_to(album)) for j in again] == NAMES


def test_videos_are_told_from_photos() -> None:
    assert Job(Path("a.MP4"), Path("b.mp4")).is_video
    assert not Job(Path("a.jpeg"), Path("b.jpeg")).is_video


# --- before the work


def never(photo: Any, options: Any) -> Any:
    raise AssertionError("no work before the checks")


def test_too_little_space_is_refused_before_the_work(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum((album / name).stat().st_size for name in NAMES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size - 1))
    with pytest.raises(OutputError, match=rf"has {(size - 1) / 1e3:.1f} kB free.* about {size / 1e3:.1f} kB; free"):
        restore(album, never)
    assert not (album.parent / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * size))
    with pytest.raises(OutputError, match="free some space"):
        run(plan(album, album.parent / "out"), never, RestoreOptions(upscale=2), SAVE)  # type: ignore[arg-type]


def test_space_is_only_asked_for_what_is_left(album: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    restore(album, pipeline)
    (album.parent / "out" / "b.png").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=(album / "b.png").stat().st_size))
    assert restore(album, pipeline).exit_code == 0
    assert restore(album, pipeline, SaveOptions(overwrite=True)).exit_code == 0  # replaces as much as it writes


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Any, flags: int, *rest: Any, real: Any = os.open) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return int(real(path, flags, *rest))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OutputError, match=r"out.*read-only; choose another folder"):
        restore(album, never)
    assert not (album.parent / "out").exists()


def test_a_file_in_the_way_is_one_failure_that_costs_no_work(album: Path, pipeline: Any) -> None:
    (album.parent / "out").mkdir()
    (album.parent / "out" / "1952").write_text("in the way")
    summary = restore(album, pipeline)
    assert [str(o.error) for o in summary.failed] == [
        f"cannot create the folder {album.parent / 'out' / '1952'}: File exists"
    ]
    assert len(pipeline.restorer.seen) == 4
    assert (album.parent / "out" / "1952").read_text() == "in the way"


# --- the report


def entries(album: Path, summary: Summary) -> dict[str, Any]:
    found = summary.report(plan(album, album.parent / "out"))
    return {entry["source"]: entry for entry in found}


def test_the_report_covers_what_earlier_runs_did(album: Path, pipeline: Any) -> None:
    (album / "bad.jpg").write_bytes(b"")
    whole = entries(album, restore(album, pipeline))
    assert list(whole) == [NAMES[0], NAMES[1], "b.png", "bad.jpg", "c.webp", "d.tiff"]
    assert "bad.jpg" in whole["bad.jpg"]["error"]
    assert whole["bad.jpg"]["result"] is None
    (album.parent / "out" / "c.webp").unlink()
    resumed = entries(album, restore(album, pipeline, resume=True))
    assert resumed["c.webp"]["result"].pop("seconds") is not None  # done again
    whole["c.webp"]["result"].pop("seconds")
    assert json.loads(json.dumps(resumed)) == json.loads(json.dumps(whole))


def test_the_report_claims_nothing_about_outputs_of_unknown_origin(album: Path, pipeline: Any) -> None:
    out = album.parent / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    found = entries(album, restore(album, pipeline))
    assert found["b.png"] == {"source": "b.png", "error": None, "result": None}
    assert found["a.JPG"]["result"] is not None
    # the same name, another photo: its record is no longer that of the output
    shutil.copyfile(album / "d.tiff", album / "a.JPG")
    assert entries(album, restore(album, pipeline, resume=True))["a.JPG"]["result"] is None


def test_an_output_that_was_not_replaced_keeps_no_new_record(
    album: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after the record, before the output: with --overwrite the old output is still there."""
    from facewright.pipelines.restore import RestoreResult

    restore(album, pipeline, SaveOptions(quality=20))

    def die(*arguments: Any, **options: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(RestoreResult, "save", die)
        with pytest.raises(SystemExit):
            restore(album, pipeline, SaveOptions(overwrite=True))
    found = entries(album, restore(album, pipeline, resume=True))
    assert found["1952/b.png"]["result"] is None
    assert found["d.tiff"]["result"] is not None


def test_damaged_records_are_no_records(album: Path, pipeline: Any) -> None:
    restore(album, pipeline)
    for index, path in enumerate(sorted((album.parent / "out" / OWN_FOLDER).glob("*.json"))):
        path.write_bytes((b"", b"{", b"[]", b'{"source": "a.JPG"}', b"\xff")[index])
    summary = restore(album, pipeline, resume=True)
    assert summary.exit_code == 0
    assert all(entry["result"] is None for entry in entries(album, summary).values())


def test_same_remarks_share_a_sentence(album: Path, pipeline: Any) -> None:
    summary = restore(album, pipeline)
    (line,) = summary.remarks(plan(album, album.parent / "out"))
    assert line.startswith("1952/b.png, a.JPG, b.png and 2 more: so little of the face was left")
