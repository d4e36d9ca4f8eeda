"""What is not a face, drawn by a network that enlarges whole pictures; faces are left to the restorer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..geometry.paste import FacePatch
    from ..io.image import Photo
    from ..tasks.enlarge import Enlarger

_STRIP, _OVERLAP = 384, 16  # rows of the photo; networks that look farther say so by their own `overlap`


def redrawn(photo: Photo, base: Photo, factor: int, enlarger: Enlarger, patches: Sequence[FacePatch]) -> Photo:
    """`base`, which is the photo `factor` times as large, with all but its faces drawn by the network.

    The network's picture fades out where the patches of restored faces fade in, so that no face is drawn twice.
    """
    pixels = drawn(photo.rgb(), factor, enlarger)
    mask = np.ones(pixels.shape[:2], np.float32)
    for patch in patches:
        x0, y0, x1, y1 = patch.box
        mask[y0:y1, x0:x1] = np.minimum(mask[y0:y1, x0:x1], 1 - patch.mask)
    return base.patched((0, 0, base.width, base.height), pixels.astype(np.float32), mask)


def drawn(rgb: NDArray[np.uint8], factor: int, enlarger: Enlarger) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB to the network's (H · factor, W · factor, 3), whatever the network's own scale is.

    Strip by strip, so that a network that enlarges more than is wanted needs little memory for it.
    """
    height, width = rgb.shape[:2]
    out = np.empty((height * factor, width * factor, 3), np.uint8)
    around = max(_OVERLAP, getattr(enlarger, "overlap", 0))
    for top in range(0, height, _STRIP):
        y0, y1 = max(top - around, 0), min(top + _STRIP + around, height)
        strip = _resized(enlarger.enlarge(rgb[y0:y1]), (y1 - y0) * factor, width * factor)
        last = min(top + _STRIP, height)
        out[top * factor : last * factor] = strip[(top - y0) * factor : (last - y0) * factor]
    return out


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
