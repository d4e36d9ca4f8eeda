"""The calls behind `import facewright as fw`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import facewright as fw
from facewright.errors import FacewrightError, LicenceError, LockedError, OutputError, UsageError, WeightsError
from facewright.io.lock import locked
from facewright.pipelines.pages import PagesReport
from facewright.tasks.card import cards

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def pipeline(use_pipeline: Callable[[Any], None], fakes: SimpleNamespace) -> Any:
    made = fakes.pipeline(fakes.face_at((100, 30), 20), fakes.face_at((40, 30), 16))
    use_pipeline(made)
    return made


def test_read_takes_everything(tmp_path: Path, fakes: SimpleNamespace) -> None:
    pixels = fakes.textured(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), pixels]
    for source in (*sources, Image.fromarray(pixels), fw.read(pixels)):
        assert np.array_equal(fw.read(source).pixels, pixels)


def test_models_lists_cards_and_filters_by_task() -> None:
    assert [c.slug for c in fw.models()] == list(cards())
    assert {c.task for c in fw.models("restore")} == {"restore"}
    assert fw.models("nosuch") == []


def test_restore_gives_a_result_and_saves_it(pipeline: Any, tmp_path: Path, fakes: SimpleNamespace) -> None:
    pixels = fakes.textured(60, 140)
    result = fw.restore(pixels, tmp_path / "out.png", fidelity=0.5, max_faces=1)
    assert [f.restored for f in result.faces] == [False, True]  # type: ignore[union-attr]
    assert np.array_equal(fw.read(tmp_path / "out.png").pixels, result.image.pixels)  # type: ignore[union-attr]
    assert pipeline.restorer.seen == [(1, 0.5, None)]
    with pytest.raises(OutputError):
        fw.restore(pixels, tmp_path / "out.png")
    fw.restore(pixels, tmp_path / "out.png", overwrite=True)


def test_what_is_written_goes_the_way_of_the_command(
    pipeline: Any, run: Any, tmp_path: Path, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked while another process writes it, refused before any work, named after the source in a folder."""
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(fakes.textured(60, 140)).save(source)
    with locked(target), pytest.raises(LockedError, match="is being written by process"):
        fw.restore(source, target)
    with pytest.raises(UsageError, match="is the original"):
        fw.restore(source, source, overwrite=True)
    assert not pipeline.restorer.seen
    fw.restore(source, target)
    run("restore", source, "-o", tmp_path / "command.png")
    assert target.read_bytes() == (tmp_path / "command.png").read_bytes()
    calls = len(pipeline.restorer.seen)
    for wrong in (target, tmp_path / "missing" / "out.png", tmp_path / "out.xyz"):
        with pytest.raises(FacewrightError):
            fw.restore(source, wrong)
    assert len(pipeline.restorer.seen) == calls
    (tmp_path / "results").mkdir()
    fw.restore(source, tmp_path / "results")
    assert (tmp_path / "results" / "in.png").read_bytes() == target.read_bytes()


def test_all_pages_are_restored_as_by_the_command(pipeline: Any, tmp_path: Path, fakes: SimpleNamespace) -> None:
    pages = [Image.fromarray(fakes.textured(60, 140, seed=seed)) for seed in range(3)]
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    pages[0].save(source, save_all=True, append_images=pages[1:])
    report = fw.restore(source, target)
    assert isinstance(report, PagesReport)
    assert len(report.pages) == fw.read(target).pages == 3
    fw.restore(source.read_bytes(), tmp_path / "one.tif")
    assert fw.read(tmp_path / "one.tif").pages == 1


def test_detect_gives_faces_in_reading_order(pipeline: Any, fakes: SimpleNamespace) -> None:
    found = fw.detect(fakes.textured(60, 140))
    assert [round(f.centre[0]) for f in found] == [40, 100]


def test_unknown_options_are_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError("networks loaded")

    monkeypatch.setattr(fw.Session, "network", load)
    with pytest.raises(TypeError, match="sharpness"):
        fw.restore(np.zeros((8, 8, 3), np.uint8), sharpness=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="strength"):
        fw.restore(np.zeros((8, 8, 3), np.uint8), strength=3)


def test_video_needs_an_output(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    with pytest.raises(UsageError, match="output="):
        fw.restore(tmp_path / "video.mp4")


def test_every_error_is_of_one_family(tmp_path: Path) -> None:
    with pytest.raises(fw.FacewrightError):
        fw.read(tmp_path / "missing.jpg")
    with pytest.raises(fw.FacewrightError):
        fw.create("nosuch")


def test_create_makes_fresh_networks_of_a_preset() -> None:
    compact = fw.create("mos", preset="compact")
    assert compact.config == type(compact).Config.compact()
    assert compact.weights_sha256 is None
    for wrong in ("huge", "backbone", "__init__", "working_size"):
        with pytest.raises(UsageError, match=r"choose from .*compact"):
            fw.create("mos", preset=wrong)


@pytest.mark.parametrize("slug", list(cards()))
def test_commercial_use_is_refused_where_the_licence_does(slug: str) -> None:
    if not cards()[slug].checkpoints:
        pytest.skip("no weights in this checkout")
    allowed = cards()[slug].checkpoints[0].commercial
    if allowed:
        fw.create(slug, pretrained=True, commercial=True)
    else:
        with pytest.raises(LicenceError, match="commercially"):
            fw.create(slug, pretrained=True, commercial=True)


def test_pretrained_from_nowhere_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        fw.create("frgp", pretrained=tmp_path / "missing.safetensors")


def test_degrade_says_what_it_drew(fakes: SimpleNamespace) -> None:
    photo = fakes.textured(64, 64)
    pixels, record = fw.degrade_photo(photo, "vqfr", seed=4)
    again, same = fw.degrade_photo(photo, "vqfr", seed=4)
    other, _ = fw.degrade_photo(photo, "vqfr", seed=5)
    assert np.array_equal(pixels, again)
    assert record == same
    assert not np.array_equal(pixels, other)


def test_no_public_name_is_hidden_by_a_module_of_that_name() -> None:
    """Importing `facewright.x` puts the module into the name `x` of the package."""
    import pkgutil

    assert not {m.name for m in pkgutil.iter_modules(fw.__path__)} & set(fw.__all__)


def test_version_is_the_packages() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("facewright")
    except PackageNotFoundError:
        pytest.skip("facewright is not installed")
    assert fw.__version__ == installed
