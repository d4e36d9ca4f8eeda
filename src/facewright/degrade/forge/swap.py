"""Parts of one face put into another: what editors do by hand, and swaps between look-alikes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...errors import UsageError
from ...geometry.similarity import fit_similarity
from .blend import Finish, blend, transfer_colour
from .record import Forgery, check_points
from .regions import Region, region_mask, region_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Points = NDArray[np.floating]


def splice(
    target: Image,
    target_points: Points,
    donor: Image,
    donor_points: Points,
    regions: Sequence[Region],
    *,
    finish: Finish = "feather",
    colour: bool = True,
    parents: tuple[str, str] = ("target", "donor"),
) -> Forgery:
    """The target with some parts of the donor, each turned and scaled to where the target's own part was.

    `colour` first gives the donor the target's colours under each part. Pictures may differ in size.
    """
    check_points(target, target_points)
    check_points(donor, donor_points)
    if not regions:
        raise UsageError("name at least one region to replace")
    image, mask = target, np.zeros(target.shape[:2], np.float32)
    for region in regions:
        part = region_mask(target_points, region, target.shape[:2])
        moved = _moved(donor, region_points(donor_points, region), region_points(target_points, region), target.shape)
        if colour:
            moved = transfer_colour(moved, image, part)
        image, used = blend(image, moved, part, finish)
        mask = np.maximum(mask, used)
    return Forgery(image, mask, f"splice-{finish}", parents)


def _moved(donor: Image, source: NDArray[np.float64], wanted: NDArray[np.float64], shape: tuple[int, ...]) -> Image:
    matrix = fit_similarity(source, wanted)
    size = (shape[1], shape[0])
    moved = cv2.warpAffine(donor, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def swap(
    target: Image,
    target_points: Points,
    donor: Image,
    donor_points: Points,
    *,
    finish: Finish = "feather",
    parents: tuple[str, str] = ("target", "donor"),
) -> Forgery:
    """The donor's face warped to the target's landmarks and put in its place, in the target's colours."""
    from .morph import control_points, warp

    check_points(target, target_points)
    check_points(donor, donor_points)
    if target.shape != donor.shape:
        raise UsageError(f"a swap needs pictures of one size, not {target.shape[:2]} and {donor.shape[:2]}")
    shape = target.shape[:2]
    moved = warp(donor, control_points(donor_points, shape), control_points(target_points, shape))
    hull = region_mask(target_points, "face", shape)
    image, mask = blend(target, transfer_colour(moved, target, hull), hull, finish)
    return Forgery(image, mask, f"swap-{finish}", parents)


def look_alikes(
    embeddings: NDArray[np.floating], row: int, candidates: NDArray[np.int64], most: int = 5
) -> NDArray[np.int64]:
    """The candidates most alike to a row of (N, D) unit embeddings, without itself and pictures of the same person.

    Above a cosine of 0.6 two faces are taken for one person.
    """
    alike = embeddings[candidates] @ embeddings[row]
    other = candidates[(candidates != row) & (alike < SAME)]
    order = np.argsort(embeddings[other] @ embeddings[row])[::-1]
    return np.asarray(other[order[:most]], np.int64)


SAME = 0.6
