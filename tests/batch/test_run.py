"""Runs in this process: what comes out, what is kept, and what a kill at any point leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from tests.batch.toy import BRIGHTNESS, BrightnessOptions

from facewright.batch import manifest as manifest_module
from facewright.batch.manifest import Keys, Manifest, Outcome
from facewright.batch.run import Machines, manifest_of, run, write_report
from facewright.errors import LockedError, UsageError
from facewright.io.lock import locked
from facewright.runtime.editing import SaveOptions
from facewright.tasks.declare import NetworkChoice, get_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

HERE = Machines(workers=0, photos=3)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (8, 6), (10 * i, 10 * i, 10 * i)).save(folder / ("sub" if i % 2 else ".") / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "letter.doc").write_bytes(b"letter")
    return folder


@pytest.fixture
def go(album: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run the toy task over the album."""

    def call(output: str = "out", machines: Machines = HERE, options: Any = None, **values: Any) -> Any:
        options = options or BrightnessOptions()
        return run(
            BRIGHTNESS, str(album), str(tmp_path / output), options, NetworkChoice(), machines=machines, **values
        )

    return call


def files_in(folder: Path) -> list[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if ".facewright" not in p.parts)


def left_over(folder: Path) -> list[str]:
    """What is there beside outputs and journals."""
    notes = folder / ".facewright" / "batch"
    kept = ("done", "run.json")
    found = (p for p in notes.rglob("*") if p.is_file() and p.relative_to(notes).parts[0] not in kept)
    return [p.name for p in found if "lock" not in p.name]


def test_every_photo_has_its_result_in_its_place(go: Any, tmp_path: Path) -> None:
    heard: list[Outcome] = []
    summary = go(on_outcome=lambda outcome, total: heard.append(outcome))
    assert (summary.total, summary.done, summary.failed, summary.exit_code) == (9, 8, 1, 1)
    assert len(heard) == 9
    assert "8 done, 0 already there, 1 failed; skipped: 1 of other kinds (.doc)" in summary.line
    (failed,) = [o for o in heard if o.error]
    assert failed.key == "broken.jpg"
    assert failed.error.startswith("broken.jpg")
    assert str(tmp_path) not in failed.error
    out = tmp_path / "out"
    assert files_in(out) == sorted(
        [f"{i}.png.json" for i in range(0, 8, 2)] + [f"sub/{i}.png.json" for i in (1, 3, 5, 7)]
    )
    assert json.loads((out / "sub/3.png.json").read_text()) == {
        "source": "sub/3.png", "size": [8, 6], "notes": [], "faces": [{"mean": 30.0}],
    }  # fmt: skip
    assert left_over(out) == []


def test_a_second_run_does_what_is_new(go: Any, album: Path, tmp_path: Path) -> None:
    go()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json") if "batch" not in p.parts}
    Image.new("RGB", (4, 4)).save(album / "new.png")
    summary = go()
    assert (summary.total, summary.done, summary.before, summary.failed) == (1, 1, 9, 0)
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())
    assert go().total == 0


def test_what_failed_is_done_again_when_asked(go: Any, album: Path, tmp_path: Path) -> None:
    go()
    Image.new("RGB", (4, 4), (7, 7, 7)).save(album / "broken.jpg")
    assert go().total == 0
    summary = go(retry_failed=True)
    assert (summary.total, summary.done, summary.failed) == (1, 1, 0)
    write_report(manifest_of(str(tmp_path / "out")), tmp_path / "report.jsonl", overwrite=False)
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert sorted(line["source"] for line in lines).count("broken.jpg") == 1
    assert len(lines) == 9
    assert all(line["error"] is None for line in lines)


def test_outputs_of_others_are_kept_unless_told_otherwise(go: Any, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "0.png.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert go().there == 1
    assert mine.read_text() == "mine"
    go("other")
    theirs = tmp_path / "third" / "0.png.json"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    assert go("third", save=SaveOptions(overwrite=True)).there == 0
    assert json.loads(theirs.read_text())["source"] == "0.png"


def test_another_kind_of_run_does_not_mix(go: Any, tmp_path: Path) -> None:
    go()
    with pytest.raises(UsageError, match="was begun with another pause"):
        go(options=BrightnessOptions(pause=0.001))
    with locked(tmp_path / "out/.facewright/batch/run.json"), pytest.raises(LockedError):
        go()


def test_rows_of_parquet_hold_the_same(go: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra ray is not installed")
    go("rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(table) == 8
    assert {row["key"]: json.loads(row["result"])["faces"][0]["mean"] for row in table}["sub/3.png"] == 30.0
    assert go("rows.parquet").total == 0
    assert len(parquet.read_table(tmp_path / "rows.parquet")) == 8


STEPS = ("_write", "_publish", "finish", "end")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(
    album: Path, tmp_path: Path, step: str, when: str
) -> None:
    out = tmp_path / "out"
    script = f"""
import os
from facewright.batch import manifest
from facewright.batch.run import run, Machines
from facewright.tasks.declare import NetworkChoice
from tests.batch.toy import BRIGHTNESS, BrightnessOptions
original, calls = manifest.Manifest.{step}, []
def killing(self, *arguments):
    calls.append(1)
    if {when!r} == "before" and len(calls) == 2:
        os._exit(9)
    result = original(self, *arguments)
    if {when!r} == "after" and len(calls) == 2:
        os._exit(9)
    return result
manifest.Manifest.{step} = killing
run(BRIGHTNESS, {str(album)!r}, {str(out)!r}, BrightnessOptions(), NetworkChoice(), machines=Machines(0, photos=3))
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 9
    summary = run(BRIGHTNESS, str(album), str(out), BrightnessOptions(), NetworkChoice(), machines=HERE)
    assert summary.done + summary.failed + summary.before == 9
    assert summary.there == 0
    assert len(files_in(out)) == 8
    assert left_over(out) == []
    outcomes = list(manifest_of(str(out)).done())
    assert sorted(o.key for o in outcomes if o.error) == ["broken.jpg"]
    assert len({o.key for o in outcomes}) == len(outcomes) == 9


def test_a_photo_that_ends_every_worker_is_given_up(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "notes", tmp_path)
    with manifest.opened({}):
        assert [manifest.begin("bad.jpg") for _ in range(4)] == [True, True, True, False]
        manifest.end(["bad.jpg"])
        assert manifest.begin("bad.jpg")


def test_keys_take_little_and_are_told_apart() -> None:
    keys = Keys.of(f"photo {i}.jpg" for i in range(5000))
    assert len(keys) == 5000
    assert keys._digests.nbytes == 16 * 5000
    assert all(f"photo {i}.jpg" in keys for i in range(0, 5000, 97))
    assert not any(f"photo {i}.jpg" in keys for i in range(5000, 5300))
    assert "x" not in Keys.of([])


def test_two_files_of_one_name_are_both_there_or_told(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "notes", tmp_path)
    with manifest.opened({}):
        for number, text in enumerate(("first", "second")):
            with manifest.chunk(f"chunk{number}") as staged:
                (staged / manifest_module.staged_name("x.txt")).write_text(text)
                done = manifest.commit(f"chunk{number}", [Outcome("x", files=("x.txt",))])
    assert (tmp_path / "x.txt").read_text() == "first"
    assert "exists already" in (done[0].error or "")


def test_edited_photos_have_the_bytes_of_the_command(
    tmp_path: Path, fakes: SimpleNamespace, use_pipeline: Any, run: Callable[..., tuple[int, str, str]]
) -> None:
    use_pipeline(fakes.pipeline(fakes.face_at((60, 50), 24)))
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.jpg", "c.tif")):
        Image.fromarray(fakes.textured(100, 120, seed=seed)).save(folder / name)
    Image.fromarray(fakes.textured(100, 120, seed=5)).save(folder / "d.jpm", "JPEG2000")
    code, said, _ = run("batch", "restore", folder, "-o", tmp_path / "many", "--workers", "0", "--quality", "90")
    assert (code, said) == (0, f"{tmp_path / 'many'}: 4 done, 0 already there, 0 failed\n")
    for name in ("a.png", "b.jpg", "c.tif"):
        assert run("restore", folder / name, "-o", tmp_path / name, "--quality", "90")[0] == 0
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert (tmp_path / "many" / "d.jpm.jp2").exists()
    code, said, _ = run("batch", "restore", folder, "-o", tmp_path / "many", "--workers", "0", "--quality", "90")
    assert said == f"{tmp_path / 'many'}: 0 done, 4 already there, 0 failed\n"


def test_the_command_tells_failures_and_its_exit_code(
    album: Path, tmp_path: Path, fakes: SimpleNamespace, use_pipeline: Any, run: Callable[..., tuple[int, str, str]]
) -> None:
    use_pipeline(fakes.pipeline(fakes.face_at((4, 3), 2)))
    code, said, err = run("batch", "detect", album, "-o", tmp_path / "o", "--workers", 0, "--report", tmp_path / "r")
    assert code == 1
    assert "8 done, 0 already there, 1 failed" in said
    assert "failed: broken.jpg" in err
    assert len((tmp_path / "r").read_text().splitlines()) == 9
    assert run("batch", "detect", tmp_path / "nowhere", "-o", tmp_path / "o", "--workers", 0)[0] == 2
    (tmp_path / "empty").mkdir()
    code, _, err = run("batch", "detect", tmp_path / "empty", "-o", tmp_path / "p", "--workers", 0)
    assert (code, "there is no photo in" in err) == (2, True)
    code, _, err = run("batch", "detect", album, "-o", tmp_path / "x.gallery", "--workers", 0)
    assert (code, "a gallery holds embeddings" in err) == (2, True)


def test_embeddings_go_into_a_gallery_once(tmp_path: Path, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facewright.face import Face
    from facewright.gallery import Gallery, RecogniserId
    from facewright.pipelines.identity import FaceEmbedding
    from facewright.runtime.session import Session

    def embed(photo: Any, options: Any) -> list[FaceEmbedding]:
        vector = np.zeros(8, np.float32)
        vector[int(photo.rgb().mean()) // 10] = 1
        box = np.array([0, 0, 200, 200], np.float32)
        points = np.array([[60, 80], [140, 80], [100, 120], [70, 150], [130, 150]], np.float32)
        return [FaceEmbedding(Face(box, 0.9, points), vector, "toy")]

    known = RecogniserId("toy", "ab" * 32, 8)
    monkeypatch.setattr(Session, "pipeline", lambda self, task, choice=None: embed)
    monkeypatch.setattr(Session, "chosen", lambda self, task, choice: None)
    monkeypatch.setattr("facewright.gallery.photos.recogniser_id", lambda network: known)
    task = get_task("embed")
    place = str(tmp_path / "faces.gallery")
    for _ in range(2):
        run(task, str(album), place, task.options(), NetworkChoice(), machines=HERE)
    with Gallery.open(place, known) as gallery:
        assert len(gallery.people()) == 8
        assert gallery.search(np.eye(8, dtype=np.float32)[3:4], 1)[0][0].person == "sub/3.png#0"
    # a chunk whose journal was lost after its entries were made
    for journal in (tmp_path / "faces.gallery.batch" / "done").glob("*.jsonl"):
        journal.unlink()
    assert run(task, str(album), place, task.options(), NetworkChoice(), machines=HERE).done == 8
    with Gallery.open(place, known) as gallery:
        assert [p.samples for p in gallery.people()] == [1] * 8


def test_workers_are_given_places_that_hold_anywhere(
    tmp_path: Path, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.batch import run as module

    given: list[Any] = []

    def outcomes(work: Any, files: Any, chunks: int, machines: Machines) -> list[Outcome]:
        given.append((work, files))
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_outcomes", outcomes)
    monkeypatch.setattr(module, "_load", lambda task, choice, output: None)
    (tmp_path / "mine.safetensors").touch()
    task = get_task("restore")
    options, choice = task.options(references=("album",)), NetworkChoice(weights="mine.safetensors")
    run(task, "album", "out", options, choice, machines=HERE)
    ((work, files),) = given
    assert (work.manifest.root, files.root) == (tmp_path / "out", album)
    assert (work.options.references, work.choice.weights) == ((str(album),), str(tmp_path / "mine.safetensors"))


def test_tasks_of_two_photos_and_of_none_are_refused(tmp_path: Path, album: Path) -> None:
    for verb in ("verify", "synthesise"):
        task = get_task(verb)
        with pytest.raises(UsageError, match="does not take single photos"):
            run(task, str(album), str(tmp_path / "o"), task.options(), NetworkChoice(), machines=HERE)
    with pytest.raises(UsageError, match="photos 0 must be at least 1"):
        Machines(photos=0)
    with pytest.raises(UsageError, match="a cluster needs workers"):
        replace(HERE, address="auto")
