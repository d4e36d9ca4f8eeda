"""Which part of a photo a network sees of a face, to the pixel.

A network is trained on one kind of crop; what it makes of another kind nobody has measured. So the crop is a record,
`CropSpec`, that travels with the weights, and every stage that feeds a network cuts by that record alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from ..errors import UsageError
from ..face import Face, FaceCrop
from .similarity import fit_similarity, fit_similarity_robust
from .templates import template_points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CropKind = Literal["whole", "template", "box", "framed"]

_BROAD, _ABOVE, _BELOW = 1.17, 1.35, 1.18  # eye-to-mouth distances from the middle of a face to the sides of its box
_LEAST_SIDE = 1.0  # px of the photo: what is cut around a box without an area


def align_matrix(points5: NDArray[np.floating], size: int, template: str = "ffhq") -> NDArray[np.float64]:
    """Photo→crop similarity that puts five landmarks on a named template."""
    return fit_similarity_robust(points5, template_points(template, size))


def template_face(size: int, template: str = "ffhq") -> Face:
    """The face of a crop of `size` px whose landmarks lie on a template; its box reaches from the brows to the chin."""
    points = template_points(template, size)
    eyes, mouth = points[:2].mean(0), points[3:5].mean(0)
    (x, y), unit = (eyes + mouth) / 2, float(np.hypot(*(mouth - eyes)))
    box = np.array([x - _BROAD * unit, y - _ABOVE * unit, x + _BROAD * unit, y + _BELOW * unit], np.float32)
    return Face(box, 1.0, points.astype(np.float32))


@dataclass(frozen=True, slots=True)
class CropSpec:
    """The crop of a face that a network wants.

    kind: `whole`, the photo as it is; `template`, turned and scaled so that the five landmarks lie on `template`;
        `box`, a square around the face's box; `framed`, the face's box enlarged, shrunk and moved as far as it takes
        to lie inside the photo, and stretched to a square. `CropSpec.whole`, `.aligned`, `.boxed` and `.framed` make
        them.
    size: side of the crop in pixels; 0 for what takes template crops of any side, and cuts none itself. For whole
        photos the side to which the network itself scales them, 0 for none.
    template: its name in `facewright.geometry.templates`.
    margin: of box crops, the share of the box's longer side that is added on every side; of framed ones, of either
        side by itself. Also of template crops: they fall back to such a box where the five points coincide, and so say
        nothing of size and turn.
    zoom, centre: of template crops, enlargement around a point, in shares of the crop, which becomes the middle.
    level_eyes: box crops are turned about their middle until the line through the eyes is level; without, by quarters
        as the face is turned in the photo.
    robust: whether one landmark that disagrees with the other four is left out of the fit.
    mean_side: box crops are measured by the mean of the box's sides instead of its longer one.
    lift: share of the box's height by which a box crop's middle lies above the box's.
    offset: pixels of the crop by which a box's middle lies to the right of and below the crop's. Where pixel centres
        are whole numbers the crop's middle is (size − 1) / 2; networks whose training put it at size / 2 have 0.5.
    """

    kind: CropKind
    size: int = 0
    template: str = ""
    margin: float = 0.0
    zoom: float = 1.0
    centre: tuple[float, float] = (0.5, 0.5)
    level_eyes: bool = False
    robust: bool = True
    offset: float = 0.0
    mean_side: bool = False
    lift: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(CropKind):
            raise UsageError(f"unknown kind of crop {self.kind!r}; known: {', '.join(get_args(CropKind))}")
        if self.size < 0 or (self.size == 0 and self.kind in ("box", "framed")):
            raise UsageError(f"a {self.kind} crop cannot have a side of {self.size} px")
        if not self.zoom > 0:
            raise UsageError(f"a crop cannot be zoomed by {self.zoom:g}; give a factor above 0")
        if not self.margin > -0.5:
            raise UsageError(f"a margin of {self.margin:g} leaves nothing of the box; give one above -0.5")
        if self.kind == "template":
            template_points(self.template)
        for name in _FOREIGN[self.kind]:
            if getattr(self, name) != _DEFAULTS[name]:
                raise UsageError(f"{name} does not apply to a {self.kind} crop; omit it")

    @classmethod
    def whole(cls, size: int = 0) -> Self:
        """Whole photos; `size` as said above."""
        return cls("whole", size)

    @classmethod
    def aligned(
        cls,
        size: int,
        template: str = "ffhq",
        *,
        margin: float = 0.5,
        zoom: float = 1.0,
        centre: tuple[float, float] = (0.5, 0.5),
        robust: bool = True,
        offset: float = 0.0,
    ) -> Self:
        """Crops aligned by five landmarks."""
        return cls("template", size, template, margin, zoom, centre, robust=robust, offset=offset)

    @classmethod
    def boxed(
        cls,
        size: int,
        *,
        margin: float,
        level_eyes: bool = False,
        offset: float = 0.0,
        mean_side: bool = False,
        lift: float = 0.0,
    ) -> Self:
        """Square crops around the face's box."""
        return cls("box", size, margin=margin, level_eyes=level_eyes, offset=offset, mean_side=mean_side, lift=lift)

    @classmethod
    def framed(cls, size: int, *, margin: float) -> Self:
        """Parts of the photo around the face's box, stretched to a square."""
        return cls("framed", size, margin=margin)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The spec of its fields as plain data, as `dataclasses.asdict` and JSON give them."""
        values = dict(data)
        if "centre" in values:
            x, y = values["centre"]
            values["centre"] = (float(x), float(y))
        return cls(**values)

    def matrix(self, face: Face) -> NDArray[np.float64]:
        """The (2, 3) photo→crop matrix of a face.

        Raises UsageError for a face whose landmarks or box are not finite, for a spec of any size, and for a framed
        crop, which depends on the photo.
        """
        if self.kind == "whole":
            return np.eye(2, 3)
        if self.kind == "framed":
            raise UsageError("where a framed crop lies depends on the photo's size; cut it out of the photo")
        if not self.size:
            raise UsageError("a crop of any size has no side of its own to cut a face to")
        if not (np.isfinite(face.points5).all() and np.isfinite(face.box).all()):
            raise UsageError("the landmarks and the box of a face must be finite numbers to cut it out")
        if self.kind == "template":
            try:
                return self.align(face.points5)
            except ValueError:
                logger.debug("the five points of a face coincide; it is cut out by its box")
                return self.around(face.box, face.turn)
        across = face.points5[1] - face.points5[0]
        roll = float(np.degrees(np.arctan2(across[1], across[0]))) if self.level_eyes else float(face.turn)
        return self.around(face.box, roll)

    def align(self, points5: NDArray[np.floating]) -> NDArray[np.float64]:
        """The matrix of five landmarks (5, 2) by the template alone; ValueError where they coincide."""
        fit = fit_similarity_robust if self.robust else fit_similarity
        matrix = fit(points5, template_points(self.template, self.size)) * self.zoom
        matrix[:, 2] += (0.5 - self.zoom * np.array(self.centre)) * self.size
        return matrix

    def around(self, box: NDArray[np.floating], roll: float = 0.0) -> NDArray[np.float64]:
        """The matrix of a box (x0, y0, x1, y1) alone: the crop is turned by −`roll` degrees about its middle."""
        x0, y0, x1, y1 = (float(v) for v in box)
        side = (x1 - x0 + y1 - y0) / 2 if self.mean_side else max(x1 - x0, y1 - y0)
        scale = self.size / max(side * (1 + 2 * self.margin), _LEAST_SIDE)
        cos, sin = scale * np.cos(np.radians(roll)), scale * np.sin(np.radians(roll))
        linear = np.array([[cos, sin], [-sin, cos]])
        middle = np.full(2, (self.size - 1) / 2 + self.offset)
        middle[1] += scale * self.lift * (y1 - y0)
        return np.column_stack([linear, middle - linear @ np.array([(x0 + x1) / 2, (y0 + y1) / 2])])

    def frame(self, box: NDArray[np.floating], width: int, height: int) -> tuple[int, int, int, int]:
        """The part (x0, y0, x1, y1) of a photo of that size that a framed crop shows, in whole pixels, ends exclusive.

        Raises UsageError for a box that is not finite.
        """
        if not np.isfinite(box).all():
            raise UsageError("the box of a face must be finite numbers to cut it out")
        x0, y0, x1, y1 = (float(v) for v in box)
        across, down = max(x1 - x0, _LEAST_SIDE), max(y1 - y0, _LEAST_SIDE)
        scale = min(1 + 2 * self.margin, (width - 1) / across, (height - 1) / down)
        left, right = _inside((x0 + x1) / 2, scale * across, width)
        top, bottom = _inside((y0 + y1) / 2, scale * down, height)
        return left, top, right, bottom

    def cut(self, image: NDArray[np.uint8], face: Face) -> FaceCrop:
        """The crop of a face of an (H, W, 3) uint8 RGB photo; see `resample.crop_by_matrix` for its pixels.

        A whole photo is passed on as it is. Raises UsageError as `matrix` does.
        """
        if self.kind == "whole":
            return FaceCrop(image, self.matrix(face), "", np.ones(image.shape[:2], bool))
        from .resample import crop_by_matrix, stretched_crop  # OpenCV, which reading a card does not need

        if self.kind == "framed":
            return stretched_crop(image, self.frame(face.box, image.shape[1], image.shape[0]), self.size)
        return crop_by_matrix(image, self.matrix(face), self.size, self.template)


def _inside(middle: float, length: float, whole: int) -> tuple[int, int]:
    """The pixels that an interval of a length around a point touches, moved as far as it takes to lie in 0…whole."""
    start = min(max(middle - length / 2, 0.0), max(whole - 1 - length, 0.0))
    first = min(int(start), whole - 1)
    return first, min(int(start + length) + 1, whole)


_DEFAULTS: dict[str, Any] = {
    "template": "",
    "margin": 0.0,
    "zoom": 1.0,
    "centre": (0.5, 0.5),
    "level_eyes": False,
    "robust": True,
    "offset": 0.0,
    "mean_side": False,
    "lift": 0.0,
}
_FOREIGN: dict[str, tuple[str, ...]] = {
    "whole": tuple(_DEFAULTS),
    "template": ("level_eyes", "mean_side", "lift"),
    "box": ("template", "zoom", "centre", "robust"),
    "framed": ("template", "zoom", "centre", "level_eyes", "robust", "offset", "mean_side", "lift"),
}
