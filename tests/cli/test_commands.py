"""The command line: what it writes, its exit codes, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.errors import UsageError
from facewright.io.image import read
from facewright.io.provenance import read_provenance
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def fail(run: Any, tmp_path: Path) -> Callable[..., str]:
    """Run what must fail: exit code 2, one line on standard error, no traceback, no file more than before."""

    def call(*arguments: Any) -> str:
        before = listing(tmp_path)
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("facewright: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert listing(tmp_path) == before
        return err

    return call


def listing(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns if p.is_file() else 0 for p in folder.rglob("*")}


@pytest.fixture
def pipeline(use_pipeline: Callable[[Any], None], fakes: SimpleNamespace) -> Any:
    """Fake networks in place of the trained ones."""
    made = fakes.pipeline(fakes.face_at((40, 30), 16), fakes.face_at((100, 30), 20))
    use_pipeline(made)
    return made


@pytest.fixture
def photo(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(fakes.textured(60, 140)).save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.png"


# --- what it does


def test_restore_writes_exactly_that_file(run: Any, pipeline: Any, photo: Path, out: Path) -> None:
    before = set(listing(photo.parent))
    code, said, err = run("restore", photo, "-o", out)
    assert (code, err) == (0, "")
    warning, done = said.splitlines()
    assert warning.startswith(f"{photo}: faces 0, 1: so little of the face was left")
    assert done == f"{out}: 2 of 2 faces restored"
    assert set(listing(photo.parent)) - before == {str(out)}
    assert read(out).pixels.shape == (60, 140, 3)
    assert read_provenance(out) is not None


def test_restore_into_a_folder_keeps_the_name(run: Any, pipeline: Any, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert run("restore", photo, "-o", tmp_path / "results")[0] == 0
    assert (tmp_path / "results" / "in.png").exists()


def test_every_option_arrives(run: Any, pipeline: Any, photo: Path, out: Path, tmp_path: Path) -> None:
    code, _, _ = run(
        "restore", photo, "-o", out, "--upscale", 2, "--fidelity", 0.25, "--strength", 0.5, "--faces", "0,1",
        "--skip", 0, "--box", "0,0,140,60", "--point", "100,30", "--max-faces", 3, "--min-score", 0.1, "--force",
        "--seed", 5, "--hair", "--whole", "--relight", "--no-watermark", "--report", tmp_path / "r.json",
        "--compare", tmp_path / "c.png", "--grain", "none",
    )  # fmt: skip
    assert code == 0
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["options"] == {
        "upscale": 2,
        "fidelity": 0.25,
        "strength": 0.5,
        "faces": [0, 1],
        "skip": [0],
        "boxes": [[0, 0, 140, 60]],
        "points": [[100, 30]],
        "max_faces": 3,
        "min_score": 0.1,
        "force": True,
        "watermark": False,
        "seed": 5,
        "hair": True,
        "whole": True,
        "relight": True,
        "grain": "none",
        "old_photo": False,
        "scratches": True,
        "tones": True,
        "damage_mask": None,
        "references": [],
    }
    assert [f["restored"] for f in data["faces"]] == [False, True]
    assert pipeline.restorer.seen == [(1, 0.25, 5)]
    assert read(out).pixels.shape == (120, 280, 3)
    assert read(tmp_path / "c.png").width > 2 * 280


def test_references_are_given_one_by_one(run: Any, use_pipeline: Any, photo: Path, out: Path) -> None:
    seen: list[tuple[str, ...]] = []

    class Watching:
        def __call__(self, photo: Any, options: Any) -> None:
            seen.append(options.references)
            raise UsageError("seen")

    use_pipeline(Watching())
    assert run("restore", photo, "-o", out, "--reference", "her 1.jpg", "--reference", "a,b.jpg")[0] == 2
    assert run("restore", photo, "-o", out)[0] == 2
    assert seen == [("her 1.jpg", "a,b.jpg"), ()]


def test_references_for_a_restorer_without_any_are_refused(fail: Any, pipeline: Any, photo: Path, out: Path) -> None:
    assert "add --model refldm" in fail("restore", photo, "-o", out, "--reference", photo)


def test_defaults_are_those_of_the_pipeline(run: Any, pipeline: Any, photo: Path, out: Path, tmp_path: Path) -> None:
    assert run("restore", photo, "-o", out, "--report", tmp_path / "r.json")[0] == 0
    assert json.loads((tmp_path / "r.json").read_text())["options"] == json.loads(json.dumps(asdict(RestoreOptions())))


def test_switches_of_saving(run: Any, pipeline: Any, photo: Path, tmp_path: Path) -> None:
    assert run("restore", photo, "-o", tmp_path / "a.png", "--no-provenance")[0] == 0
    assert read_provenance(tmp_path / "a.png") is None
    for quality in (20, 95):
        assert run("restore", photo, "-o", tmp_path / f"{quality}.jpg", "--quality", quality)[0] == 0
    assert (tmp_path / "20.jpg").stat().st_size < 0.6 * (tmp_path / "95.jpg").stat().st_size


def test_overwrite_replaces(run: Any, pipeline: Any, photo: Path, out: Path) -> None:
    out.write_bytes(b"old")
    assert run("restore", photo, "-o", out, "--overwrite")[0] == 0
    assert read(out).width == 140


def test_notes_of_reading_are_told(run: Any, pipeline: Any, tmp_path: Path, fakes: SimpleNamespace, out: Path) -> None:
    frames = [Image.fromarray(fakes.textured(60, 140, seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    code, said, _ = run("restore", tmp_path / "in.gif", "-o", out)
    assert code == 0
    assert said.startswith(f"{tmp_path / 'in.gif'}: ")
    assert "frame" in said


@pytest.fixture
def album(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for index, name in enumerate(("a.jpg", "b.png")):
        Image.fromarray(fakes.textured(60, 140, seed=index)).save(folder / name)
    return folder


def test_folder_exit_codes_and_summary(run: Any, pipeline: Any, album: Path, tmp_path: Path) -> None:
    target = tmp_path / "results"
    report = tmp_path / "report.json"
    code, said, _ = run("restore", album, "-o", target, "--report", report)
    assert (code, said.splitlines()[-1]) == (0, f"{target}: 2 done, 0 already there, 0 failed")
    assert [f["source"] for f in json.loads(report.read_text())] == ["a.jpg", "b.png"]

    (album / "bad.jpg").write_bytes(b"")
    code, said, err = run("restore", album, "-o", target, "--resume")
    assert (code, said) == (1, f"{target}: 0 done, 2 already there, 1 failed\n")
    assert "bad.jpg" in err
    assert "Traceback" not in err
    (tmp_path / "only").mkdir()
    (album / "bad.jpg").rename(tmp_path / "only" / "bad.jpg")
    assert run("restore", tmp_path / "only", "-o", target)[0] == 2


def test_ctrl_c_is_one_line_and_130(run: Any, pipeline: Any, album: Path, tmp_path: Path) -> None:
    pipeline.restorer.fail = KeyboardInterrupt()
    code, _, err = run("restore", album, "-o", tmp_path / "results")
    assert code == 130
    assert "--resume" in err
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_models_json_has_one_object_per_registered_system(run: Any) -> None:
    from facewright.tasks.card import cards

    code, said, _ = run("models", "--json")
    assert code == 0
    assert [entry["slug"] for entry in json.loads(said)] == list(cards())
    code, said, _ = run("models", "--json", "--task", "detect")
    assert {entry["task"] for entry in json.loads(said)} == {"detect"}
    lines = run("models")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(cards())


def test_models_shows_one_system(run: Any) -> None:
    code, said, _ = run("models", "frgp")
    assert code == 0
    assert "arxiv.org/abs/2205.14377" in said
    assert "Limit: " in said
    assert json.loads(run("models", "frgp", "--json")[1])["slug"] == "frgp"


def test_detect_prints_and_draws(run: Any, pipeline: Any, photo: Path, tmp_path: Path) -> None:
    code, said, _ = run("detect", photo, "--draw", tmp_path / "drawn.png")
    assert code == 0
    assert said.splitlines()[0] == f"{photo}: 2 faces"
    assert said.splitlines()[1].startswith("  0: box ")
    assert (read(tmp_path / "drawn.png").pixels != read(photo).pixels).any()
    faces = json.loads(run("detect", photo, "--json")[1])
    assert [f["eye_distance"] for f in faces] == pytest.approx([16, 20], abs=0.01)


def test_degrade_is_reproducible(run: Any, photo: Path, tmp_path: Path) -> None:
    for name in "ab":
        arguments = ("degrade", photo, "-o", tmp_path / f"{name}.png", "--preset", "severe", "--seed", 3)
        assert run(*arguments, "--report", tmp_path / f"{name}.json")[0] == 0
    assert np.array_equal(read(tmp_path / "a.png").pixels, read(tmp_path / "b.png").pixels)
    assert (read(tmp_path / "a.png").pixels != read(photo).pixels).any()
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.json").read_text())


def test_without_arguments_help_is_shown(run: Any) -> None:
    code, said, _ = run()
    assert code == 0
    assert "Usage" in said
    assert len(said.splitlines()) > 10


# --- mistakes


def test_missing_and_unreadable_inputs(fail: Any, pipeline: Any, tmp_path: Path, photo: Path, out: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("Dear grandmother,")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:60])
    assert "does not exist" in fail("restore", tmp_path / "missing.jpg", "-o", out)
    for name in ("empty.jpg", "text.jpg", "cut.png"):
        assert name in fail("restore", tmp_path / name, "-o", out)
        assert name in fail("detect", tmp_path / name)
        assert name in fail("degrade", tmp_path / name, "-o", out)
    (tmp_path / "nothing").mkdir()
    assert "no photo or video" in fail("restore", tmp_path / "nothing", "-o", tmp_path / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file(fail: Any, pipeline: Any, photo: Path, out: Path) -> None:
    photo.chmod(0)
    assert "permission" in fail("restore", photo, "-o", out).lower()


def test_outputs_that_cannot_be(fail: Any, pipeline: Any, photo: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.png"
    taken.write_bytes(b"mine")
    assert "--overwrite" in fail("restore", photo, "-o", taken)
    assert "is the original" in fail("restore", photo, "-o", photo)
    assert "is the original" in fail("restore", photo, "-o", photo, "--overwrite")
    assert "is the original" in fail("restore", photo, "-o", tmp_path)
    assert "does not exist" in fail("restore", photo, "-o", tmp_path / "no" / "out.png")
    assert ".xyz" in fail("restore", photo, "-o", tmp_path / "out.xyz")
    assert "no suffix" in fail("restore", photo, "-o", tmp_path / "out")
    assert "does not exist" in fail("restore", photo, "-o", tmp_path / "o.png", "--report", tmp_path / "no" / "r.json")
    assert ".xyz" in fail("restore", photo, "-o", tmp_path / "o.png", "--compare", tmp_path / "c.xyz")
    assert "--old-photo" in fail("restore", photo, "-o", tmp_path / "o.png", "--save-damage-mask", tmp_path / "m.png")
    assert "--overwrite" in fail("restore", photo, "-o", tmp_path / "o.png", "--compare", taken)
    assert pipeline.restorer.seen == []
    assert taken.read_bytes() == b"mine"


def test_folder_mistakes(fail: Any, pipeline: Any, album: Path, photo: Path, tmp_path: Path) -> None:
    assert "originals" in fail("restore", album, "-o", album)
    assert "is a file" in fail("restore", album, "-o", photo)
    assert "--compare" in fail("restore", album, "-o", tmp_path / "x", "--compare", tmp_path / "c.png")
    mask = tmp_path / "m.png"
    assert "--save-damage-mask" in fail("restore", album, "-o", tmp_path / "x", "--save-damage-mask", mask)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bogus",), "--bogus"),
        (("--upscale", "3"), "choose 1, 2 or 4"),
        (("--upscale", "two"), "'--upscale'"),
        (("--fidelity", "1.5"), "fidelity 1.5 is outside"),
        (("--strength", "-1"), "strength -1.0 is outside"),
        (("--faces", "first"), "--faces 'first'"),
        (("--faces", ""), "--faces ''"),
        (("--faces", "9"), "there is no face 9"),
        (("--box", "1,2,3"), "--box takes 4 numbers"),
        (("--point", "a,b"), "--point takes 2 numbers"),
        (("--max-faces", "0"), "max_faces 0"),
        (("--quality", "101"), "'--quality'"),
        (("--page", "-1"), "'--page'"),
        (("--seed", "-3"), "seed -3"),
        (("--max-megapixels", "0.001"), "in.png"),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], said: str, fail: Any, pipeline: Any, photo: Path, out: Path) -> None:
    assert said in fail("restore", photo, "-o", out, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nosuch"), "known: adaface"),
        (("--model", "mos"), "mos is not a restorer"),
        (("--device", "abacus"), "unknown device"),
        (("--device", "meta"), "not supported"),
        (("--device", "cuda:77"), "no device"),
        (("--dtype", "int4"), "choose auto, fp32 or bf16"),
        (("--weights", "missing.safetensors"), "no weights at missing.safetensors"),
    ],
)
def test_networks_that_cannot_be_loaded(
    arguments: tuple[str, ...], said: str, fail: Any, photo: Path, out: Path
) -> None:
    assert said in fail("restore", photo, "-o", out, *arguments)


def test_missing_output_option(fail: Any, photo: Path) -> None:
    assert "-o" in fail("restore", photo)


def test_unknown_command_and_model(fail: Any, tmp_path: Path) -> None:
    assert "restroe" in fail("restroe")
    assert "unknown model 'nosuch'" in fail("models", "nosuch")
    assert "nosuch" in fail("import", "nosuch", tmp_path / "a.pth", "-o", tmp_path / "x")


def test_damaged_weights(fail: Any, photo: Path, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{ not quite json")
    assert "not a readable safetensors file" in fail("restore", photo, "-o", out, "--weights", path)


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return os.mkdir, (str(self.path),)  # type: ignore[return-value]


def test_code_in_a_pickle_is_not_run(fail: Any, photo: Path, out: Path, tmp_path: Path) -> None:
    bomb, sign = tmp_path / "bomb.pth", tmp_path / "exploded"
    bomb.write_bytes(pickle.dumps({"params_ema": Bomb(sign)}))
    assert "convert it first" in fail("restore", photo, "-o", out, "--weights", bomb)
    assert "holds more than tensors" in fail("import", "gfpgan", bomb, "-o", tmp_path / "imported")
    assert not sign.exists()
    pickle.loads(bomb.read_bytes())
    assert sign.exists()  # the bomb was live


def test_full_disk(
    fail: Any, pipeline: Any, photo: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "disk is full" in fail("restore", photo, "-o", out)
    assert "disk is full" in fail("degrade", photo, "-o", out)


def test_memory_that_runs_out(fail: Any, pipeline: Any, photo: Path, out: Path) -> None:
    pipeline.restorer.fail = MemoryError()
    assert "not enough memory" in fail("restore", photo, "-o", out)


def test_demo_into_a_file(fail: Any, pipeline: Any, photo: Path) -> None:
    assert str(photo) in fail("demo", "-o", photo)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (None, "cannot read recipe"),
        ("- a list", "not a mapping"),
        ("a: [1", "cannot read recipe"),
        ("system: frgp\nbogus: 1", "unknown entry 'bogus'"),
        ("system: frgp\nsteps: 3", "batch_size is missing"),
        (
            "system: frgp\nsteps: 1\nbatch_size: 1\ntraining: {}\ndata: {}\nprecision: fp8",
            "input should be 'fp32' or 'bf16'",
        ),
        ("system: nosuch\nsteps: 1\nbatch_size: 1\ntraining: {}\ndata: {}\nprecision: fp32", "unknown model 'nosuch'"),
    ],
)
def test_recipes_that_cannot_be(recipe: str | None, said: str, fail: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if recipe is not None:
        path.write_text(recipe)
    assert said in fail("train", path, "-o", tmp_path / "run")


def test_bundle_is_not_overwritten(run: Any, fail: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.bundle"
    path.write_bytes(b"mine")
    assert "--overwrite" in fail("bundle", path)
    assert "not a facewright bundle" in fail("bundle", path, "--install")
    assert "not a facewright bundle" in fail("bundle", tmp_path / "missing", "--install")
