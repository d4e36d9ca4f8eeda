"""TIFFs of several pages: all restored into one file, or the one that was chosen; and the notes that people see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from facewright.cli.edit import edit
from facewright.errors import UsageError
from facewright.io.icc import adobe_rgb
from facewright.io.image import Photo, read, read_page
from facewright.pipelines.pages import restore_pages
from facewright.runtime.folder import SaveOptions, plan, run
from facewright.runtime.session import Session
from facewright.tasks import restore as task_module
from facewright.tasks.declare import NetworkChoice
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def pipeline(fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = fakes.pipeline(fakes.face_at((40, 30), 16))
    monkeypatch.setattr(Session, "pipeline", lambda *_: made)
    return made


@pytest.fixture
def scans(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    """Three pages of different depths, each with its own title."""
    path = tmp_path / "scans.tif"
    with tifffile.TiffWriter(path) as writer:
        for index in range(3):
            values = fakes.textured(60, 80, seed=index)
            values = values.astype(np.uint16) * 257 if index == 1 else values
            writer.write(values, photometric="rgb", metadata=None, extratags=[(285, 2, 0, f"sheet {index}", True)])
    return path


def restore(source: Path, output: Path, **options: Any) -> None:
    values: dict[str, Any] = {
        "report": None,
        "quality": 95,
        "page": None,
        "max_megapixels": 200.0,
        "drop_gps": False,
        "provenance": True,
        "sign": None,
        "overwrite": False,
    }
    restore_options = options.pop("options", RestoreOptions())
    choice = NetworkChoice()
    edit(task_module.TASKS[0], restore_options, choice, source=source, output=output, **(values | options))


def test_all_pages_are_restored(scans: Path, tmp_path: Path, pipeline: Any) -> None:
    photo = read(scans)
    assert (photo.pages, photo.whole) == (3, False)
    report = restore_pages(photo, tmp_path / "out.tif", pipeline, RestoreOptions())
    assert report.summary.startswith("3 pages; page 1: 1 of 1 face restored; page 2:")
    assert [face["page"] for face in report.to_dict()["faces"]] == [1, 2, 3]
    assert report.notes == ()
    for index in range(3):
        before, after = read(scans, page=index), read(tmp_path / "out.tif", page=index)
        assert (after.bit_depth, after.pixels.shape) == (before.bit_depth, before.pixels.shape)
        assert (after.pixels != before.pixels).any()
        np.testing.assert_array_equal(after.pixels[:, 70:], before.pixels[:, 70:])
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert [page.tags[285].value for page in file.pages] == ["sheet 0", "sheet 1", "sheet 2"]  # type: ignore[union-attr]
        assert all(b"facewright" in page.tags[700].value for page in file.pages)  # type: ignore[union-attr]


def test_a_page_that_fails_leaves_no_file(scans: Path, tmp_path: Path, pipeline: Any) -> None:
    def fragile(photo: Photo, options: Any) -> Any:
        if any("page 2" in note for note in photo.notes):
            raise RuntimeError("a bug")
        return pipeline(photo, options)

    with pytest.raises(RuntimeError):
        restore_pages(read(scans), tmp_path / "out.tif", fragile, RestoreOptions())  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scans.tif"]


def test_faces_are_chosen_on_one_page(scans: Path, tmp_path: Path, pipeline: Any) -> None:
    with pytest.raises(UsageError, match="3 pages; choose one with --page"):
        restore_pages(read(scans), tmp_path / "out.tif", pipeline, RestoreOptions(faces=(0,)))


def test_command_line(scans: Path, tmp_path: Path, pipeline: Any, capsys: pytest.CaptureFixture[str]) -> None:
    restore(scans, tmp_path / "all.tif")
    assert read(tmp_path / "all.tif").pages == 3
    assert "3 pages; page 1: 1 of 1 face restored" in capsys.readouterr().out
    restore(scans, tmp_path / "one.tif", page=1)
    assert (read(tmp_path / "one.tif").pages, read(tmp_path / "one.tif").bit_depth) == (1, 16)
    assert "page 2 of 3" in capsys.readouterr().out
    restore(scans, tmp_path / "first.png")
    assert "page 1 of 3" in capsys.readouterr().out


def test_folders_keep_all_pages(scans: Path, tmp_path: Path, fakes: SimpleNamespace, pipeline: Any) -> None:
    album = tmp_path / "album"
    album.mkdir()
    scans.rename(album / "scans.tif")
    Photo(fakes.textured(60, 80)).save(album / "single.png")
    summary = run(plan(album, tmp_path / "out"), pipeline, RestoreOptions(), SaveOptions())
    assert summary.exit_code == 0
    assert read(tmp_path / "out" / "scans.tif").pages == 3
    chosen = run(plan(album, tmp_path / "page"), pipeline, RestoreOptions(), SaveOptions(page=2))
    assert chosen.exit_code == 0
    assert read(tmp_path / "page" / "scans.tif").pages == 1
    assert read(tmp_path / "page" / "single.png").width == 80


def test_a_page_of_many_files(scans: Path, tmp_path: Path, fakes: SimpleNamespace) -> None:
    single = Photo(fakes.textured(20, 20)).save(tmp_path / "a.png")
    assert read_page(single, 4).width == 20
    assert read_page(scans, 1).bit_depth == 16
    with pytest.raises(Exception, match="pages 0 to 2"):
        read_page(scans, 3)


def test_what_the_format_cannot_hold_is_printed(
    tmp_path: Path, fakes: SimpleNamespace, pipeline: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Photo(fakes.textured(60, 80).astype(np.uint16) * 257, icc=adobe_rgb()).save(tmp_path / "in.png")
    restore(source, tmp_path / "a.jpg")
    said = capsys.readouterr().out
    assert "16 bits per channel were rounded to 8" in said
    assert "sRGB" not in said
    restore(source, tmp_path / "a.bmp")
    assert "converted to sRGB" in capsys.readouterr().out
    restore(source, tmp_path / "a.tif")
    assert "rounded" not in capsys.readouterr().out


def test_warnings_about_faces_are_printed(
    tmp_path: Path, fakes: SimpleNamespace, pipeline: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("facewright.pipelines.restore.warnings_for", lambda *_: ("parts of it are invented",))
    source = Photo(fakes.textured(60, 80)).save(tmp_path / "in.png")
    restore(source, tmp_path / "a.png")
    assert f"{source}: face 0: parts of it are invented" in capsys.readouterr().out


def test_an_unchanged_photo_is_copied_whatever_reading_had_to_convert(
    tmp_path: Path, fakes: SimpleNamespace, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fakes.pipeline()
    monkeypatch.setattr(Session, "pipeline", lambda *_: made)
    inks = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", inks, photometric="separated")
    restore(tmp_path / "in.tif", tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "in.tif").read_bytes()
    assert "CMYK" not in capsys.readouterr().out
