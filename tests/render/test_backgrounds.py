"""What is behind the head: collections of pictures and made-up colours."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.errors import ImageReadError, UsageError
from facewright.render import Backgrounds, Renderer, coarse_face
from facewright.render.backgrounds import procedural_background

if TYPE_CHECKING:
    from facewright.render import Scene

SIZE = 128


def test_backgrounds_of_folder_and_tar_are_equal(tmp_path, renderer: Renderer, frontal: Scene) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(folder / name, name)
    sources = [Backgrounds(folder), Backgrounds(tmp_path / "all.tar")]
    assert sources[0].names == sources[1].names == ("a.png", "b.png")
    np.testing.assert_array_equal(sources[0].picture("b.png"), sources[1].picture("b.png"))
    scene = replace(frontal, backdrop=replace(frontal.backdrop, name="a.png", box=(0.0, 0.0, 1.0)))
    shown = Renderer(coarse_face(), backgrounds=sources[1]).render(scene)
    cut = cv2.resize(sources[0].picture("a.png")[:90, :90], (SIZE, SIZE))
    np.testing.assert_allclose(shown.clean[0, :20].astype(int), cut[0, :20].astype(int), atol=2)
    with pytest.raises(UsageError, match="--backgrounds"):
        renderer.render(scene)
    with pytest.raises(UsageError, match="not in"):
        Renderer(coarse_face(), backgrounds=sources[0]).render(
            replace(scene, backdrop=replace(scene.backdrop, name="c.png"))
        )


def test_procedural_background_differs_by_seed() -> None:
    first = procedural_background(1, (40, 30))
    assert first.shape == (30, 40, 3)
    assert 0 <= first.min() < first.max() <= 1
    np.testing.assert_array_equal(first, procedural_background(1, (40, 30)))
    assert np.abs(first - procedural_background(2, (40, 30))).mean() > 0.02


def test_collections_that_hold_no_pictures_are_refused(tmp_path) -> None:
    with pytest.raises(ImageReadError, match="backgrounds"):
        Backgrounds(tmp_path)
    (tmp_path / "no.tar").write_bytes(b"not a tar")
    with pytest.raises(ImageReadError, match=r"no\.tar"):
        Backgrounds(tmp_path / "no.tar")
