"""facewright render: folders and shards, several processes, resuming, one scene again, errors."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from facewright.cli.render import render
from facewright.errors import FacewrightError, OutputError, UsageError, WeightsError
from facewright.render.jobs import Plan, grid, read_scene, run
from facewright.render.shards import check_what

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ["--size", "32", "--seed", "4"]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(render)
    return made


@pytest.fixture(scope="module")
def call(app: typer.Typer):
    def run_it(*arguments: object) -> str:
        result = CliRunner().invoke(app, [*map(str, arguments)])
        if result.exception is not None:
            raise result.exception
        return result.output

    return run_it


@pytest.fixture(scope="module")
def made(call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    what = "rgb,clean,mask,easyportrait,lapa,depth,normals,albedo,vertices,landmarks"
    call("--n", 3, *SMALL, "-o", folder, "--what", what)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "render.json"}


def test_files_of_a_picture(made: Path) -> None:
    names = sorted(p.name.split(".", 1)[1] for p in made.glob("00000001.*"))
    what = "rgb,clean,mask,easyportrait,lapa,depth,normals,albedo,vertices,landmarks"
    assert names == sorted([*(f"{name}.png" for name in what.split(",") if name != "vertices"), "vertices.npy", "json"])
    truth = json.loads((made / "00000001.json").read_text())
    depth = cv2.imread(str(made / "00000001.depth.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(made / "00000001.mask.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    np.testing.assert_array_equal(depth[mask > 0] > 0, True)
    vertices = np.load(made / "00000001.vertices.npy")
    nearest = truth["scene"]["camera"]["distance"] / 100 - vertices[:, 2].max()
    assert depth[depth > 0].min() / 1e4 == pytest.approx(nearest, abs=0.12)


@pytest.mark.slow
def test_processes_change_nothing(made: Path, tmp_path: Path, call) -> None:
    call("--n", 3, *SMALL, "-o", tmp_path / "two", "--what", "rgb,mask", "--jobs", 2)
    two = _contents(tmp_path / "two")
    assert len(two) == 9
    assert all((made / name).read_bytes() == content for name, content in two.items())


def test_one_scene_again(made: Path, tmp_path: Path, call) -> None:
    call("--scene", made / "00000002.json", "-o", tmp_path / "again", "--what", "rgb,clean")
    for name in ("rgb.png", "clean.png", "json"):
        assert (tmp_path / "again" / f"00000000.{name}").read_bytes() == (made / f"00000002.{name}").read_bytes()
    line = tmp_path / "line.json"
    line.write_text(read_scene(made / "00000002.json").to_json())
    assert read_scene(line) == read_scene(made / "00000002.json")


def test_resume_makes_what_is_missing(tmp_path: Path, call) -> None:
    out = tmp_path / "out"
    call("--n", 2, *SMALL, "-o", out)
    before = _contents(out)
    (out / "00000001.json").unlink()
    with pytest.raises(OutputError, match="--resume"):
        call("--n", 2, *SMALL, "-o", out)
    assert "1 rendered, 1 already there" in call("--n", 2, *SMALL, "-o", out, "--resume")
    assert _contents(out) == before
    assert "1 rendered, 2 already there" in call("--n", 3, *SMALL, "-o", out, "--resume")
    with pytest.raises(UsageError, match="other settings \\(seed\\)"):
        call("--n", 2, "--size", 32, "--seed", 5, "-o", out, "--resume")


def test_shards_hold_the_same_files(made: Path, tmp_path: Path, call) -> None:
    out = tmp_path / "shards"
    sheet = tmp_path / "sheet.png"
    arguments = ["--n", 3, *SMALL, "-o", out, "--format", "webdataset", "--shard", 2]
    call(*arguments, "--grid", sheet)
    with tarfile.open(out / "faces-000000.tar") as tar:
        assert tar.getnames() == [f"0000000{i}.{s}" for i in (0, 1) for s in ("rgb.png", "mask.png", "json")]
        content = tar.extractfile("00000001.rgb.png")
        assert content is not None
        assert content.read() == (made / "00000001.rgb.png").read_bytes()
    whole = (out / "faces-000001.tar").read_bytes()
    (out / "faces-000001.tar").unlink()
    assert "1 rendered, 2 already there" in call(*arguments, "--resume")
    assert (out / "faces-000001.tar").read_bytes() == whole
    assert not list(out.glob(".facewright-*"))
    assert cv2.imread(str(sheet)).shape == (192, 3 * 192, 3)


def test_clip_with_words(tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    out = tmp_path / "clip"
    said = call("-o", out, *SMALL, "--say", "Pa", "--fps", 8, "--what", "rgb")
    assert "espeak-ng is not installed" in said
    truth = json.loads((out / "clip.json").read_text())
    assert [p["viseme"] for p in truth["phones"]] == ["sil", "PP", "aa", "sil"]
    assert len(list(out.glob("*.rgb.png"))) == round(truth["phones"][-1]["end"] * 8)
    assert not (out / "speech.wav").exists()


def test_grid_fills_up_with_black() -> None:
    white = np.full((10, 10, 3), 255, np.uint8)
    sheet = grid([white] * 9)
    assert sheet.shape == (2 * 192, 8 * 192, 3)
    assert sheet[192:, :192].min() == 255
    assert sheet[192:, 192:].max() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--what", "rgb,smell"], UsageError, "smell"),
        (["--format", "zip"], UsageError, "webdataset"),
        (["--model", "/nowhere/FaceXModel"], WeightsError, "/nowhere/FaceXModel"),
        (["--scene", "/nowhere/line.json"], UsageError, "line.json"),
        (["--scene", "/nowhere/line.json", "--say", "hello"], UsageError, "combined"),
        (["--say", "..."], UsageError, "words"),
    ],
)
def test_wrong_wishes(arguments: list[str], error: type[FacewrightError], words: str, tmp_path: Path, call) -> None:
    with pytest.raises(error, match=words):
        call("-o", tmp_path / "out", "--n", 1, *SMALL, *arguments)


def test_damaged_files(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    for text in ("{broken", "[1, 2]", '{"scene": {"version": 1}}'):
        bad.write_text(text)
        with pytest.raises(UsageError):
            read_scene(bad)
    (tmp_path / "render.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        run(Plan("coarse", 32, 0, 1, ("rgb",), str(tmp_path)), resume=True)


def test_names_of_files() -> None:
    assert check_what(["rgb", " mask", "rgb", ""]) == ("rgb", "mask")
    with pytest.raises(UsageError, match="choose from"):
        check_what([""])
