"""Camera raw: developed at full size where rawpy is installed, named where it is not; never its preview."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from facewright.errors import ImageReadError, ImageTooLargeError
from facewright.io.image import read

COLOURS = np.array([[(200, 60, 50), (60, 180, 70)], [(60, 80, 200), (180, 180, 180)]], np.uint8)


def rationals(*values: float) -> tuple[int, ...]:
    return tuple(number for value in values for number in (round(value * 10000), 10000))


def dng(preview: bool = True, side: int = 128) -> bytes:
    """A Bayer mosaic of four flat fields (linear light), with a preview in the first directory as cameras write it."""
    light = (np.kron(COLOURS, np.ones((side // 2, side // 2, 1))) / 255) ** 2.2
    mosaic = np.empty((side, side))
    for y, x, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[y::2, x::2] = light[y::2, x::2, channel]
    about = [
        (271, 2, 0, "Maker", True),
        (272, 2, 0, "Model", True),
        (50706, 1, 4, b"\1\4\0\0", True),
        (50708, 2, 0, "Maker Model", True),
        (50721, 10, 9, rationals(3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570), True),
        (50728, 5, 3, rationals(1, 1, 1), True),
        (50778, 3, 1, 21, True),
    ]
    pattern = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True), (50717, 4, 1, 65535, True)]
    sensor = np.rint(mosaic * 65535).astype(np.uint16)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        if preview:
            small = np.kron(COLOURS, np.ones((16, 16, 1))).astype(np.uint8)
            writer.write(small, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=about)
            writer.write(sensor, photometric="cfa", subfiletype=0, metadata=None, extratags=pattern)
        else:
            writer.write(sensor, photometric="cfa", metadata=None, extratags=about + pattern)
    return file.getvalue()


@pytest.mark.parametrize("preview", [True, False])
def test_developed_at_full_size(preview: bool, tmp_path: Any) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "IMG_1.dng"
    path.write_bytes(dng(preview))
    photo = read(path)
    assert (photo.width, photo.height, photo.format, photo.bit_depth) == (128, 128, "RAW", 16)
    assert any("camera raw" in note for note in photo.notes)
    fields = photo.rgb()[32::64, 32::64].astype(float)
    fields /= fields[1, 1].mean() / 180  # brightness is the developer's choice
    assert np.abs(fields - COLOURS).max() < 30
    assert photo.exif is not None
    assert b"Maker" in photo.exif
    with pytest.raises(ImageTooLargeError):
        read(path, max_pixels=128 * 128 - 1)
    with pytest.raises(ImageReadError, match="only page 0"):
        read(path, page=1)


def test_named_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    with pytest.raises(ImageReadError, match=r"camera raw file; install .*facewright\[raw\]"):
        read(dng())


def test_a_sensor_that_cannot_be_developed_is_named() -> None:
    pytest.importorskip("rawpy")
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((32, 32, 3), np.uint16), photometric="linear_raw", metadata=None)
    with pytest.raises(ImageReadError, match="camera raw file that cannot be developed"):
        read(file.getvalue())
