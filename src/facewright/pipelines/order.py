"""The order in which people number faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..face import Face


def reading_order(faces: Sequence[Face]) -> list[Face]:
    """Faces sorted top to bottom in rows, left to right inside a row, as people number them."""
    rows: list[list[Face]] = []
    for face in sorted(faces, key=lambda f: f.centre[1]):
        if rows and face.centre[1] - rows[-1][0].centre[1] < 0.5 * max(face.height, rows[-1][0].height):
            rows[-1].append(face)
        else:
            rows.append([face])
    return [face for row in rows for face in sorted(row, key=lambda f: f.centre[0])]
