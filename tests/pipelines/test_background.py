"""The background drawn by a network: faces stay the restorer's, the rest is the network's, sizes are the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.io.image import read
from facewright.pipelines import background, old_photo
from facewright.pipelines.background import drawn
from facewright.pipelines.edit import Editor
from facewright.pipelines.restore import RestorePipeline
from facewright.pipelines.restore_video import restore_video
from facewright.runtime.session import Session
from facewright.systems.enlarge.realesrgan.network import RealESRGAN, RealESRGANConfig
from facewright.tasks.declare import NetworkChoice
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

SIZE = (180, 300)


class Darker:
    """Enlarges by repeating pixels and takes 20 off."""

    slug = "darker"

    def __init__(self, scale: int = 4) -> None:
        self.scale = scale

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        return (np.maximum(image, 20) - 20).repeat(self.scale, 0).repeat(self.scale, 1)


def restored(fakes: SimpleNamespace, enlarger: Any, *, identity: bool = False, **options: Any) -> Any:
    pipeline = RestorePipeline(
        fakes.Detector(fakes.face_at((80, 90), 30)), fakes.Restorer(identity=identity), enlarger=enlarger
    )
    return pipeline(read(fakes.textured(*SIZE)), RestoreOptions(watermark=False, **options))


@pytest.mark.parametrize("upscale", [1, 2, 4])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_rest_is_the_networks_and_the_face_the_restorers(scale: int, upscale: int, fakes: SimpleNamespace) -> None:
    plain = restored(fakes, None, upscale=upscale)
    result = restored(fakes, Darker(scale), upscale=upscale)
    assert result.image.pixels.shape == (SIZE[0] * upscale, SIZE[1] * upscale, 3)
    x0, y0, x1, y1 = result.faces[0].patch.box
    inside = np.zeros(result.image.pixels.shape[:2], bool)
    inside[y0:y1, x0:x1] = result.faces[0].patch.mask == 1
    outside = np.ones_like(inside)
    outside[y0:y1, x0:x1] = result.faces[0].patch.mask == 0
    assert inside.sum() > 100 * upscale**2
    assert np.array_equal(result.image.pixels[inside], plain.image.pixels[inside])
    expected = drawn(result.original.rgb(), upscale, Darker(scale))
    assert np.array_equal(result.image.pixels[outside], expected[outside])
    assert result.background == result.models[-1] == "darker"
    assert "the rest drawn by darker" in result.summary


def test_the_rest_of_a_mended_print_is_drawn_too(monkeypatch: pytest.MonkeyPatch, fakes: SimpleNamespace) -> None:
    photo = np.maximum(fakes.textured(*SIZE), 40)
    mask = np.zeros(SIZE, bool)
    mask[20:23, 30:200] = True
    finder = type("Finder", (), {"find": lambda self, image: mask.astype(np.float32)})()
    monkeypatch.setattr(old_photo, "plausible_damage", lambda found: found > 0.5)
    monkeypatch.setattr(old_photo, "likely_marks", lambda rgb, found: found)
    pipeline = RestorePipeline(fakes.Detector(), fakes.Restorer(), enlarger=Darker(1), damage_finder=finder)
    result = pipeline(read(photo), RestoreOptions(old_photo=True, tones=False))
    plain = RestorePipeline(fakes.Detector(), fakes.Restorer(), damage_finder=finder)
    mended = plain(read(photo), RestoreOptions(old_photo=True, tones=False)).image.rgb()
    np.testing.assert_array_equal(result.image.rgb(), np.maximum(mended, 20) - 20)
    np.testing.assert_array_equal(result.with_strength(0).image.rgb(), photo)
    assert (result.damage_mask().rgb()[..., 0] > 127).sum() >= mask.sum()


def test_hair_joins_the_face_where_the_rest_is_drawn(monkeypatch: pytest.MonkeyPatch, fakes: SimpleNamespace) -> None:
    asked = []
    original = Editor.place

    def place(self: Editor, faces: Any, base: Any, options: RestoreOptions) -> Any:
        asked.append(options.hair)
        return original(self, faces, base, options)

    monkeypatch.setattr(Editor, "place", place)
    restored(fakes, None)
    restored(fakes, Darker(1))
    assert asked == [False, True]


def test_clean_stands_for_the_embedded_network() -> None:
    network = Session().background(NetworkChoice(background="clean"))
    assert network.slug == "scenedetail"
    assert network.scale == 1


def test_size_of_the_network_does_not_show(fakes: SimpleNamespace) -> None:
    """Twice as large or four times: at the photo's own size a network that only darkens only darkens."""
    photo = np.maximum(fakes.textured(*SIZE), 20)
    for scale in (1, 2, 4):
        assert np.array_equal(drawn(photo, 1, Darker(scale)), photo - 20)


def test_strips_join(monkeypatch: pytest.MonkeyPatch, fakes: SimpleNamespace) -> None:
    torch.manual_seed(0)
    model = RealESRGAN(RealESRGANConfig.compact()).eval()
    photo = fakes.textured(100, 60)
    whole = {factor: drawn(photo, factor, model) for factor in (1, 2, 4)}
    monkeypatch.setattr(background, "_STRIP", 24)
    for factor, expected in whole.items():
        assert np.abs(drawn(photo, factor, model).astype(int) - expected).max() <= 1


def test_deep_photo_keeps_its_depth(fakes: SimpleNamespace) -> None:
    photo = read(fakes.textured(*SIZE, dtype=np.uint16))
    pipeline = RestorePipeline(fakes.Detector(), fakes.Restorer(), enlarger=Darker())
    result = pipeline(photo, RestoreOptions())
    assert result.image.pixels.dtype == np.uint16
    change = photo.rgb().astype(int) - result.image.rgb()
    assert abs(np.median(change) - 20) <= 1


def test_drawn_photo_is_marked_even_without_a_face(tmp_path: Path, fakes: SimpleNamespace) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), fakes.textured(*SIZE))
    photo = read(tmp_path / "a.png")
    for enlarger, marked in ((None, False), (Darker(), True)):
        result = RestorePipeline(fakes.Detector(), fakes.Restorer(), enlarger=enlarger)(photo, RestoreOptions())
        saved = result.save(tmp_path / f"{marked}.png")
        assert (saved.read_bytes() == (tmp_path / "a.png").read_bytes()) is not marked
        assert (b"darker" in saved.read_bytes()) is marked


def test_videos_and_other_systems_are_refused(tmp_path: Path, fakes: SimpleNamespace) -> None:
    pipeline = RestorePipeline(fakes.Detector(), fakes.Restorer(), enlarger=Darker())
    with pytest.raises(UsageError, match="omit --background"):
        restore_video(tmp_path / "a.mp4", tmp_path / "b.mp4", pipeline)
    with pytest.raises(UsageError, match=r"frgp cannot restore a background; choose one of .*realesrgan"):
        Session().background(NetworkChoice(background="frgp"))
    assert Session().background(NetworkChoice()) is None
