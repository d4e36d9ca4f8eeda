"""Folders and locks on the command line: what is said, what is refused before the work, and what the report holds."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from facewright.io.lock import locked

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, fakes: SimpleNamespace) -> Any:
    """Fake networks in place of the trained ones."""
    from facewright.runtime.session import Session

    made = fakes.pipeline(fakes.face_at((40, 30), 16), fakes.face_at((100, 30), 20))
    monkeypatch.setattr(Session, "pipeline", lambda self, verb, choice: made)
    return made


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that must not be loaded."""
    from facewright.runtime.session import Session

    def refuse(self: Session, verb: str, choice: Any) -> None:
        raise AssertionError("no work before the checks")

    monkeypatch.setattr(Session, "pipeline", refuse)


@pytest.fixture
def album(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for index, name in enumerate(("a.jpg", "b.png")):
        Image.fromarray(fakes.textured(60, 140, seed=index)).save(folder / name)
    return folder


INVENTED = "so little of the face was left that parts of it are invented, not recovered"


def test_what_is_already_there_is_kept_and_no_failure(run: Any, pipeline: Any, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("restore", album, "-o", out)[:2] == (
        0,
        f"a.jpg, b.png: {INVENTED}\n{out}: 2 done, 0 already there, 0 failed\n",
    )
    (out / "a.jpg").write_bytes(b"mine")
    code, said, _ = run("restore", album, "-o", out)
    assert code == 0
    assert said.splitlines() == [
        "what was already there is kept; --overwrite makes it anew",
        f"{out}: 0 done, 2 already there, 0 failed",
    ]
    assert (out / "a.jpg").read_bytes() == b"mine"
    assert run("restore", album, "-o", out, "--resume")[1] == f"{out}: 0 done, 2 already there, 0 failed\n"
    assert run("restore", album, "-o", out, "--overwrite")[1].endswith("2 done, 0 already there, 0 failed\n")
    assert (out / "a.jpg").read_bytes() != b"mine"


def test_what_is_passed_over_is_named_and_counted(run: Any, pipeline: Any, album: Path, tmp_path: Path) -> None:
    for index in range(12):
        (album / f"letter{index:02}.doc").write_text("text")
    (album / ".thumbnails").mkdir()
    (album / ".thumbnails" / "a.png").write_bytes((album / "b.png").read_bytes())
    out = tmp_path / "out"
    code, said, _ = run("restore", album, "-o", out)
    *_, names, counts = said.splitlines()
    assert code == 0
    assert names == "skipped: .thumbnails/a.png, " + ", ".join(f"letter{i:02}.doc" for i in range(9)) + " and 3 more"
    assert counts == f"{out}: 2 done, 0 already there, 0 failed; 13 skipped: 1 hidden, 12 of other kinds (.doc)"
    # the records beside the results are neither photos nor skipped
    assert "skipped" not in run("restore", out, "-o", tmp_path / "again")[1]


def test_the_report_of_a_resumed_run_covers_the_folder(run: Any, pipeline: Any, album: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    (album / "bad.jpg").write_bytes(b"")
    arguments = ("restore", album, "-o", out, "--resume", "--report", report)
    assert run(*arguments)[0] == 1
    first = json.loads(report.read_text())
    (album / "bad.jpg").unlink()
    (album / "c.png").write_bytes((album / "b.png").read_bytes())
    assert run(*arguments)[0] == 0
    second = json.loads(report.read_text())
    assert [entry["source"] for entry in second] == ["a.jpg", "b.png", "c.png"]
    assert second[:2] == first[:2]
    assert second[2]["result"]["source"] == "c.png"
    # another run replaces no report, and a resumed one nothing else
    assert run("restore", album, "-o", out, "--report", report)[0] == 2
    report.write_text('{"mine": 1}')
    assert run(*arguments)[0] == 2
    assert report.read_text() == '{"mine": 1}'


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_names_that_are_no_text_are_restored_and_reported(
    run: Any, pipeline: Any, album: Path, tmp_path: Path, fakes: SimpleNamespace
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (album / name).write_bytes((album / "b.png").read_bytes())
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert run("restore", album, "-o", out, "--report", report)[0] == 0
    assert (out / name).exists()
    assert run("restore", album, "-o", out, "--resume", "--report", report)[0] == 0
    entry = json.loads(report.read_text())[2]
    assert (entry["source"], entry["result"]["source"]) == (name, name)


def test_a_single_file_in_work_is_refused_with_its_owner(run: Any, no_work: None, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with locked(out):
        code, said, err = run("restore", album / "b.png", "-o", out)
    assert (code, said) == (2, "")
    assert err.startswith(f"facewright: {out} is being written by process {os.getpid()} on ")
    assert err.count("\n") == 1
    faces = tmp_path / "faces.json"
    with locked(faces):
        code, _, err = run("embed", album, "-o", faces)
    assert code == 2
    assert f"{faces} is being written by process {os.getpid()}" in err
    assert not out.exists()
    assert not faces.exists()


def test_targets_are_tried_before_the_work(
    run: Any, no_work: None, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Any, flags: int, *rest: Any, real: Any = os.open) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return int(real(path, flags, *rest))

    monkeypatch.setattr(os, "open", read_only)
    for arguments in (
        ("restore", album, "-o", tmp_path / "out"),
        ("restore", album / "b.png", "-o", tmp_path / "out.png"),
        ("restore", album, "-o", tmp_path / "out", "--report", tmp_path / "report.json"),
        ("embed", album, "-o", tmp_path / "faces.json"),
        ("quality", album / "b.png", "-o", tmp_path / "faces.json"),
    ):
        code, said, err = run(*arguments)
        assert (code, said) == (2, "")
        assert "read-only; choose another folder" in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [album]


def test_warnings_and_notes_of_one_photo_are_told(
    run: Any, pipeline: Any, album: Path, tmp_path: Path, fakes: SimpleNamespace
) -> None:
    code, said, _ = run("restore", album / "b.png", "-o", tmp_path / "out.png")
    assert code == 0
    assert said.splitlines() == [
        f"{album / 'b.png'}: faces 0, 1: {INVENTED}",
        f"{tmp_path / 'out.png'}: 2 of 2 faces restored",
    ]


def test_notes_and_what_is_passed_over_are_told_for_records_of_a_folder(
    run: Any, album: Path, tmp_path: Path, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.runtime.session import Session

    monkeypatch.setattr(Session, "pipeline", lambda self, verb, choice: lambda photo, options: [])
    frames = [Image.fromarray(fakes.textured(60, 140, seed=i)) for i in range(2)]
    frames[0].save(album / "c.gif", save_all=True, append_images=frames[1:])
    (album / "video.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    code, said, err = run("embed", album, "--json")
    assert code == 0
    assert [entry["source"] for entry in json.loads(said)] == [str(album / n) for n in ("a.jpg", "b.png", "c.gif")]
    assert f"{album / 'c.gif'}: " in err
    assert f"{album}: 1 skipped: 1 of other kinds (.mp4): video.mp4" in err
