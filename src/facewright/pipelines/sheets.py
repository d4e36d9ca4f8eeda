"""Pictures made for looking at: before/after sheets and labelled grids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from .restore import FaceResult, RestoreResult

BACKGROUND = (250, 250, 248)
INK = (40, 40, 44)
MARGIN = 12
LABEL = 22
PHOTO_SIDE = 640
CROP_SIDE = 256
MOST_FACES = 24


def grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]], labels: Sequence[Sequence[str]], *, title: str = ""
) -> NDArray[np.uint8]:
    """A sheet of pictures in rows, each with a label below; all pictures (H, W, 3) uint8 RGB of any size."""
    widths = [sum(p.shape[1] + MARGIN for p in row) + MARGIN for row in rows]
    heights = [max(p.shape[0] for p in row) + LABEL + MARGIN for row in rows]
    top = MARGIN + (LABEL if title else 0)
    sheet = Image.new("RGB", (max(widths), sum(heights) + top), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    if title:
        draw.text((MARGIN, MARGIN // 2), title, fill=INK, font=font)
    y = top
    for row, names, height in zip(rows, labels, heights):
        x = MARGIN
        for picture, name in zip(row, names):
            sheet.paste(Image.fromarray(picture), (x, y))
            draw.text((x, y + picture.shape[0] + 2), name, fill=INK, font=font)
            x += picture.shape[1] + MARGIN
        y += height
    return np.asarray(sheet)


def compare_sheet(result: RestoreResult) -> NDArray[np.uint8]:
    """The whole photo before and after, then every restored face enlarged side by side."""
    before, after = result.base.rgb(), result.image.rgb()
    rows: list[list[NDArray[np.uint8]]] = [[_fit(before, PHOTO_SIDE), _fit(after, PHOTO_SIDE)]]
    labels = [["before", "after"]]
    restored = [f for f in result.faces if f.restored]
    for pair in (restored[i : i + 2] for i in range(0, min(len(restored), MOST_FACES), 2)):
        rows.append([view for face in pair for view in _views(result, face, before, after)])
        labels.append([text for face in pair for text in _captions(face)])
    return grid(rows, labels, title=result.summary)


def _fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _views(
    result: RestoreResult, face: FaceResult, before: NDArray[np.uint8], after: NDArray[np.uint8]
) -> list[NDArray[np.uint8]]:
    from ..geometry.resample import crop_face

    points = face.face.scaled(result.options.upscale).points5
    return [crop_face(photo, points, CROP_SIDE).image for photo in (before, after)]


def _captions(face: FaceResult) -> list[str]:
    from .restore import quality, quality_after

    after = "" if face.after is None else f", quality {quality_after(face.before, face.after):.0f}"
    return [f"face {face.index}, quality {quality(face.before):.0f}", f"restored{after}"]


def draw_faces(image: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.uint8]:
    """A copy of the photo with boxes, points and indices drawn on it."""
    canvas = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(image.shape[:2]) / 700))
    for index, face in enumerate(faces):
        x0, y0, x1, y1 = (round(float(v)) for v in face.box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), (40, 200, 80), thickness)
        for x, y in face.points5:
            cv2.circle(canvas, (round(float(x)), round(float(y))), 1 + thickness, (255, 90, 60), -1)
        text = f"{index} {face.score:.2f}"
        cv2.putText(canvas, text, (x0, max(12, y0 - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, (40, 200, 80), 1)
    return canvas
