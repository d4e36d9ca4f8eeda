"""The boxes of ISO base media files (ISO/IEC 14496-12), which HEIC, AVIF, JPEG 2000 and JPEG XL are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BOXES = 100_000


class Box(NamedTuple):
    """One box: its kind, where it begins, and where its content begins and ends."""

    kind: bytes
    first: int
    start: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes in a range of bytes; stops where they no longer make sense."""
    end = len(data) if end is None else min(end, len(data))
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, content = int.from_bytes(data[start : start + 4], "big"), start + 8
        if size == 1:
            size, content = int.from_bytes(data[start + 8 : start + 16], "big"), start + 16
        elif size == 0:
            size = end - start
        if size < content - start or start + size > end:
            return
        yield Box(data[start + 4 : start + 8], start, content, start + size)
        start += size


def inside(data: bytes, *path: bytes) -> Iterator[Box]:
    """All boxes at the end of a path such as `meta`, `iprp`, `ipco`, `colr`."""
    found = [Box(b"", 0, 0, len(data))]
    for kind in path:
        found = [box for parent in found for box in boxes(data, _content(parent), parent.end) if box.kind == kind]
    yield from found


def _content(box: Box) -> int:
    return box.start + 4 if box.kind == b"meta" else box.start  # `meta` has a version before its content
