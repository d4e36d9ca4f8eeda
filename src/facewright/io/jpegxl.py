"""What the reader of JPEG XL leaves out: the size before everything is decoded, and the XMP packet."""

from __future__ import annotations

from . import bmff

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIZE_BITS = (9, 13, 18, 30)


class _Bits:
    """Little-endian bit fields."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value


def size(data: bytes) -> tuple[int, int]:
    """Width and height from the header of the codestream (ISO/IEC 18181-1); ValueError if there is none."""
    return _size(_header(data))


def is_animated(data: bytes) -> bool:
    """Whether the header announces frames; ValueError as for `size`."""
    bits = _header(data)
    _size(bits)
    if bits.take(1) or not bits.take(1):  # all of the metadata as usual, or no more than usual of it
        return False
    bits.take(3)  # orientation
    if bits.take(1):
        _size(bits)  # another size to be shown at
    return not bits.take(1) and bool(bits.take(1))  # behind a preview, which nothing writes, it is not looked for


def _header(data: bytes) -> _Bits:
    start = _codestream(data)
    if data[start : start + 2] != b"\xff\x0a":
        raise ValueError("no JPEG XL codestream")
    return _Bits(data[start + 2 : start + 32])


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, small), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _side(bits: _Bits, small: int) -> int:
    return 8 * (bits.take(5) + 1) if small else bits.take(_SIZE_BITS[bits.take(2)]) + 1


def _codestream(data: bytes) -> int:
    if data.startswith(b"\xff\x0a"):
        return 0
    for box in bmff.boxes(data):
        if box.kind == b"jxlc":
            return box.start
        if box.kind == b"jxlp":
            return box.start + 4  # behind the number of the part
    raise ValueError("no JPEG XL codestream")


def xmp(data: bytes) -> bytes | None:
    """The XMP packet of the container, if it is there uncompressed."""
    if data.startswith(b"\xff\x0a"):
        return None
    return next((data[box.start : box.end] for box in bmff.boxes(data) if box.kind == b"xml "), None)
