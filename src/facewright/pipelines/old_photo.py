"""Repairs of a whole old photo: places that are lost are filled, faded tones are spread again, a cast is taken out.

Every repair says what it did, and is a picture of its own, so that it can be blended with the original at any strength.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import UsageError
from . import grain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..tasks.restore import DamageFinder

LOST = 0.5  # probability from which a pixel counts as damaged
_MOST_LOST = 0.35  # of the picture: more is no print any longer, or the network is wrong
_GROWN = 0.0015  # of the shorter side: the rim of a mark is damaged as well
_REACH = 0.006  # of the shorter side: how far around a hole its filling looks
_NEAR, _WIDEST = 0.015, 0.01  # of the shorter side: surroundings of a mark, and half the width of one amid the picture
_EYES, _MOUTH = (2.6, 1.1), (1.5, 0.8)  # eye distances: place of glasses and of a mouth
_GAP = 0.12  # eye distances between pieces of one mark
_INSIDE = 0.6  # share of a mark that lies there, from which it is taken for a part of the face
_TAILS = 0.004  # share of the pixels that may be clipped at either end
_LEAST_SPAN, _MOST_GAIN = 60.0, 2.5  # grey levels; factor
_CAUTION = 0.8  # exponent of the gain
_LARGEST_CAST = 12.0  # CIE Lab; a picture that is further from grey has a colour, not a cast
_GREY = 6.0  # CIE Lab chroma below which a picture counts as grey or toned in one colour
_SKIN_HUE = (28.0, 72.0)  # degrees in CIE Lab: skin of all people lies between red and yellow


@dataclass(frozen=True, slots=True, eq=False)
class Repair:
    """A repaired picture (H, W, 3) uint8 RGB, what was done in words, and where it was damaged (H, W) bool or None."""

    image: NDArray[np.uint8]
    steps: tuple[str, ...]
    damage: NDArray[np.bool_] | None = None


def mend(image: NDArray[np.uint8], damage: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An (H, W, 3) uint8 RGB picture whose damaged places (H, W) are filled from around them, grain included.

    Telea's fast marching (J. Graphics Tools 2004). Pixels that are not damaged, nor beside such, keep their bits.
    """
    if damage.shape != image.shape[:2]:
        mask, picture = (f"{a.shape[1]} x {a.shape[0]}" for a in (damage, image))
        raise UsageError(f"the damage mask has {mask} pixels, the picture {picture}; give a mask of its size")
    if not damage.any():
        return image
    rim = with_rim(damage)
    if rim.all():
        raise UsageError("the damage mask covers the whole picture, so there is nothing to fill it from")
    return filled_from_around(image, rim, seed=int(damage.sum()))


def with_rim(damage: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Damage (H, W) and the rim of its marks, which is damaged as well."""
    radius = max(1, round(_GROWN * min(damage.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(damage.astype(np.uint8), kernel) > 0)


def filled_from_around(image: NDArray[np.uint8], hole: NDArray[np.bool_], *, seed: int = 0) -> NDArray[np.uint8]:
    """An (H, W, 3) uint8 RGB picture whose hole (H, W) is filled by Telea's marching; all else keeps its bits.

    The hole must not be the whole picture. `seed` draws the grain.
    """
    side = min(image.shape[:2])
    bgr = np.ascontiguousarray(image[..., ::-1])
    filled = cv2.inpaint(bgr, hole.astype(np.uint8), max(3.0, _REACH * side), cv2.INPAINT_TELEA)[..., ::-1]
    ring = grain.around(hole.astype(np.float32), max(8, round(0.02 * side)))
    missing = grain.lacking(grain.measure(image, ring), grain.NONE)
    out = np.asarray(filled, np.float32)
    if missing.visible:
        out = out + grain.make(missing, (image.shape[0], image.shape[1]), seed)
    return np.where(hole[..., None], np.rint(out).clip(0, 255), image).astype(np.uint8)


def mended_print(image: NDArray[np.uint8], damage: NDArray[np.bool_]) -> Repair:
    """`mend` with what was done in words; nothing where nothing is damaged."""
    if not damage.any():
        return Repair(image, (), damage)
    share = 100 * damage.mean()
    return Repair(mend(image, damage), (f"damage on {share:.1f} % of the picture filled",), damage)


def with_tones(repair: Repair, faces: Sequence[Face]) -> Repair:
    """A repair whose faded tones are spread and whose cast is taken out as well."""
    image, spread = spread_tones(repair.image, repair.damage)
    image, cast = without_cast(image, faces, repair.damage)
    return Repair(image, (*repair.steps, *(step for step in (spread, cast) if step)), repair.damage)


def plausible_damage(shares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a print is damaged, from the probabilities (H, W); nowhere when it would be nearly everywhere."""
    damage = shares >= LOST
    return damage if damage.mean() <= _MOST_LOST else np.zeros_like(damage)


def found_damage(
    image: NDArray[np.uint8], finder: DamageFinder, faces: Callable[[], Sequence[Face]]
) -> NDArray[np.bool_]:
    """Where a print (H, W, 3) uint8 RGB is damaged, as a network sees it and a person would agree.

    `faces` is asked for the faces of the print where there is damage at all.
    """
    marks = likely_marks(image, plausible_damage(finder.find(image)))
    return without_features(marks, faces()) if marks.any() else marks


def likely_marks(image: NDArray[np.uint8], damage: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of what a network takes for damage (H, W), what a person would: light marks that are thin, or reach the edge.

    Broken emulsion shows the paper; dark lines and thick light shapes amid a picture (a collar, a bow tie, boards of a
    house) are mostly the picture itself.
    """
    side = min(image.shape[:2])
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    around_it = cv2.GaussianBlur(luma, (0, 0), max(3.0, _NEAR * side))
    radius = np.asarray(cv2.distanceTransform(damage.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    count, parts = cv2.connectedComponents(damage.astype(np.uint8), connectivity=8)
    found = parts[damage]
    sizes = np.maximum(np.bincount(found, minlength=count), 1)
    lighter = np.bincount(found, weights=(luma - around_it)[damage], minlength=count) / sizes
    order = np.argsort(radius[damage], kind="stable")
    widest = np.zeros(count)
    widest[found[order]] = radius[damage][order]  # the last one written is the largest
    at_edge = np.zeros(count, bool)
    rim = max(1, round(0.01 * side))
    for strip in (parts[:rim], parts[-rim:], parts[:, :rim], parts[:, -rim:]):
        at_edge[np.unique(strip)] = True
    thin = widest <= max(3.0, _WIDEST * side)
    likely = (thin & (lighter > 0)) | (at_edge & ~thin)
    kept: NDArray[np.bool_] = damage & likely[parts]
    return kept


def without_features(damage: NDArray[np.bool_], faces: Sequence[Face]) -> NDArray[np.bool_]:
    """Damage (H, W) without what lies within the eyes' or the mouth's place of a face alone.

    Rims of glasses, glints and teeth are bright, thin and sharp as scratches are; but a scratch seldom ends there.
    """
    features = np.zeros(damage.shape, np.uint8)
    for face in faces:
        unit, points = face.eye_distance, face.points5
        for centre, size in ((points[:2].mean(0), _EYES), (points[3:5].mean(0), _MOUTH)):
            angle = float(np.degrees(np.arctan2(*(points[1] - points[0])[::-1])))
            box = cv2.boxPoints(((float(centre[0]), float(centre[1])), (size[0] * unit, size[1] * unit), angle))
            cv2.fillPoly(features, [np.round(box).astype(np.int32)], 1)
    # a crack is often found in pieces
    reach = max(1, round(_GAP * max((face.eye_distance for face in faces), default=0.0)))
    joined = cv2.dilate(damage.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, parts = cv2.connectedComponents(joined, connectivity=8)
    found = parts[damage]
    sizes = np.bincount(found, minlength=count)
    inside = np.bincount(found, weights=features[damage], minlength=count)
    spared = inside > _INSIDE * sizes
    kept: NDArray[np.bool_] = damage & ~spared[parts]
    return kept


def spread_tones(image: NDArray[np.uint8], damage: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.uint8], str]:
    """A faded picture with its tones from black to white again, and what was done in words ("" for nothing).

    All channels are stretched alike, so that a toned print keeps its tone. Damaged places do not count.
    """
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    counted = luma[~damage] if damage is not None and not damage.all() else luma.ravel()
    low, high = (float(v) for v in np.quantile(counted, (_TAILS, 1 - _TAILS)))
    if high - low < _LEAST_SPAN:
        return image, ""
    # not all the way: prints of the time were never as black and white as a screen
    gain = min(_MOST_GAIN, (255 / (high - low)) ** _CAUTION)
    if gain < 1.05:
        return image, ""
    middle = 255 * low / max(low + 255 - high, 1e-6)  # the tone that stays where it is
    table = np.rint((np.arange(256) - middle) * gain + middle).clip(0, 255)
    return table.astype(np.uint8)[image], f"faded tones spread by {gain:.2f}"


def without_cast(
    image: NDArray[np.uint8], faces: Sequence[Face] = (), damage: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], str]:
    """A colour picture without the cast of faded dyes, and what was done in words ("" for nothing).

    The cast is the mean colour of what is nearly grey; it is taken out only as far as skin stays between red and
    yellow. Grey and toned pictures are left as they are.
    """
    lab = cv2.cvtColor(np.asarray(image, np.float32) / 255, cv2.COLOR_RGB2LAB)
    colour = np.asarray(lab[..., 1:], np.float32)
    valid = (lab[..., 0] > 15) & (lab[..., 0] < 95)
    if damage is not None:
        valid &= ~damage
    if int(valid.sum()) < 1000 or float(np.std(colour[valid], 0).mean()) < _GREY:
        return image, ""
    distance = np.linalg.norm(colour - np.median(colour[valid], 0), axis=-1)
    near = valid & (distance < np.quantile(distance[valid], 0.4))
    cast = colour[near].mean(0)
    cast *= min(1.0, _LARGEST_CAST / max(float(np.linalg.norm(cast)), 1e-6))
    skin = _skin_colour(colour, faces, valid)
    shift = (0.8 if skin is None else _share_that_keeps_skin(skin, cast)) * cast
    size = float(np.linalg.norm(shift))
    if size < 3:
        return image, ""
    # black has no colour to lose
    lab[..., 1:] = colour - shift * np.clip(lab[..., :1] / 40, 0, 1)
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return np.rint(255 * rgb).clip(0, 255).astype(np.uint8), f"colour cast of {size:.0f} (Lab) taken out"


def _skin_colour(
    colour: NDArray[np.float32], faces: Sequence[Face], valid: NDArray[np.bool_]
) -> NDArray[np.float32] | None:
    """The median colour (a, b) of the middle of the faces; None without faces."""
    seen = []
    for face in faces:
        centre, reach = face.points5[:3].mean(0), 0.35 * face.eye_distance
        x0, y0 = np.maximum(np.floor(centre - reach).astype(int), 0)
        x1, y1 = np.ceil(centre + reach).astype(int) + 1
        part = colour[y0:y1, x0:x1][valid[y0:y1, x0:x1]]
        if len(part):
            seen.append(np.median(part, 0))
    return np.asarray(np.median(seen, 0)) if seen else None


def _share_that_keeps_skin(skin: NDArray[np.floating], cast: NDArray[np.floating]) -> float:
    """The largest share of the cast, up to all of it, whose removal leaves skin looking like skin."""
    for share in np.linspace(1, 0, 21):
        a, b = skin - share * cast
        if np.hypot(a, b) > 6 and _SKIN_HUE[0] <= np.degrees(np.arctan2(b, a)) <= _SKIN_HUE[1]:
            return float(share)
    return 0.0
