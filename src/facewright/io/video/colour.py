"""Between YUV and RGB, and upright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RGB_MATRIX = 0
# AVCOL_SPC_* of a stream → the matrix swscale uses for it
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_SCALING = Interpolation(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True, slots=True)
class Colour:
    """How YUV and RGB relate in a video, and the tags that say so (codes of ITU-T H.273)."""

    matrix: int
    full_range: bool
    space: int
    primaries: int
    transfer: int
    range_tag: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colour:
        """The colour of a decoded frame. Untagged: BT.709 from 720p on, else BT.601, like in players."""
        guess = 1 if max(frame.height, frame.width) >= 1280 or min(frame.height, frame.width) >= 720 else 5
        space, range_tag = int(frame.colorspace), int(frame.color_range)
        if frame.format.is_rgb or space == _RGB_MATRIX:
            space, range_tag = (1 if guess == 1 else 6), int(ColorRange.MPEG)
        if frame.format.name.startswith("yuvj"):
            range_tag = int(ColorRange.JPEG)
        return cls(
            matrix=_MATRICES.get(space, guess),
            full_range=range_tag == ColorRange.JPEG,
            space=space,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            range_tag=range_tag,
        )

    def _range(self) -> ColorRange:
        return ColorRange.JPEG if self.full_range else ColorRange.MPEG

    def to_rgb(self, frame: av.VideoFrame, size: tuple[int, int], *, deep: bool, alpha: bool) -> NDArray[Any]:
        """(H, W, 3) RGB of `size` (width, height), with `alpha` (H, W, 4): uint16 when `deep`, else uint8."""
        rgb = frame.format.is_rgb
        plain, layered = ("rgb48le", "rgba64le") if deep else ("rgb24", "rgba")
        return frame.to_ndarray(
            format=layered if alpha else plain,
            width=size[0],
            height=size[1],
            src_colorspace=None if rgb else self.matrix,
            src_color_range=None if rgb else self._range(),
            dst_color_range=None if rgb else ColorRange.JPEG,
            interpolation=_SCALING,
        )

    def to_yuv(self, pixels: NDArray[Any], pix_fmt: str) -> av.VideoFrame:
        """(H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16, to an encodable frame."""
        deep, alpha = pixels.dtype == np.uint16, pixels.shape[2] == 4
        name = ("rgba64le" if deep else "rgba") if alpha else ("rgb48le" if deep else "rgb24")
        frame = av.VideoFrame.from_ndarray(pixels, format=name)
        # swscale rounds full-range chroma down, which tints the picture; on the way over 12 bits that does not show
        over = [pix_fmt.replace("yuva", "yuv") + "12le"] if self.full_range and not pix_fmt.endswith("le") else []
        for step in (*(over if not alpha else []), pix_fmt):
            frame = frame.reformat(
                format=step,
                src_colorspace=None if frame.format.is_rgb else self.matrix,
                dst_colorspace=self.matrix,
                src_color_range=ColorRange.JPEG if frame.format.is_rgb else self._range(),
                dst_color_range=self._range(),
                interpolation=_SCALING,
            )
        frame.colorspace, frame.color_range = self.space, self.range_tag
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer
        return frame


def bit_depth(frame: av.VideoFrame) -> int:
    """Bits of the deepest component."""
    return max(component.bits for component in frame.format.components)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the frame carries a transparency channel."""
    return any(component.is_alpha for component in frame.format.components)


def display_matrix(frame: av.VideoFrame) -> NDArray[np.int32] | None:
    """How the picture has to be turned. For single frames only: a frame whose side data was looked at lives on until
    the cycle collector runs."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)


def upright(pixels: NDArray[Any], matrix: NDArray[np.int32] | None) -> NDArray[Any]:
    """Apply the quarter turn and mirroring of a display matrix (ISO/IEC 14496-12, 8.3.2) to (H, W, C) pixels."""
    if matrix is None:
        return pixels
    (a, b), (c, d) = (int(v) for v in matrix[0, :2]), (int(v) for v in matrix[1, :2])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip_x, flip_y = a < 0, d < 0
    else:
        pixels = pixels.swapaxes(0, 1)
        flip_x, flip_y = c < 0, b < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
