"""The record of one drawn degradation: every number that is needed to make the same picture again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ..errors import UsageError
from .ageing import Ageing
from .colour import ColourChange
from .kernels import Blur

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS = ("blur", "down", "noise", "jpeg", "up")


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise of standard deviation `sigma` (grey levels of 255), equal in all channels if `grey`."""

    sigma: float
    seed: int
    grey: bool = False


@dataclass(frozen=True, slots=True)
class Grain:
    """Film grain, grey: `sigma` (grey levels of 255) in the mid-tones, half of it in black and white; clumps of `size`,
    the standard deviation of a Gaussian in pixels."""

    sigma: float
    size: float
    seed: int


@dataclass(frozen=True, slots=True)
class Halftone:
    """A printing screen: dots `pitch` pixels apart in rows turned by `angle` (radians), each colour by 30° more.

    `ink` in [0, 1] is the share of the screened picture in a blend with the plain one; `grey`: one screen for all
    colours, as a black-and-white print has.
    """

    pitch: float
    angle: float
    ink: float
    grey: bool = False


@dataclass(frozen=True, slots=True)
class Sharpening:
    """An unsharp mask as scanners and cameras apply it: `amount` times what a Gaussian of `sigma` pixels takes away."""

    amount: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Chain:
    """One pass of blur, shrinking, noise and JPEG, in `order`; a step that is None is left out.

    `grain` and `halftone` follow the blur (the camera's lens comes before film and print), `sharpening` the noise (the
    scanner's or camera's own, before it compresses).

    `factor` is how many times smaller the picture becomes before `up` brings it back (below 1: larger), by the filter
    `interpolation` and back by `enlarging` ("": the same one, or the bilinear one after "area"). `haze` is the share of
    the picture in a blend with white, done right after the blur.
    """

    order: tuple[str, ...]
    blur: Blur | None = None
    haze: float = 1.0
    factor: float = 1.0
    interpolation: str = "linear"
    enlarging: str = ""
    noise: Noise | None = None
    jpeg: int | None = None
    grain: Grain | None = None
    halftone: Halftone | None = None
    sharpening: Sharpening | None = None

    def __post_init__(self) -> None:
        check_order(self.order)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        values = dict(data)
        values["order"] = tuple(values["order"])
        values["blur"] = values["blur"] and Blur(**values["blur"])
        for key, kind in (("noise", Noise), ("grain", Grain), ("halftone", Halftone), ("sharpening", Sharpening)):
            if values.get(key):
                values[key] = kind(**values[key])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Patch:
    """A square of `side` pixels at (`x`, `y`) that went through a chain of its own."""

    x: int
    y: int
    side: int
    chain: Chain


@dataclass(frozen=True, slots=True)
class Degradation:
    """One drawn degradation of a picture of `size` = (height, width) pixels.

    Applied in the order shift, ageing, chain (and patch), colour. `shift` moves the content by whole pixels (x, y);
    it hits the target as well, and so does `colour` when `colour_on_target` is set. `keep_small` leaves out the final
    enlargement.
    """

    preset: str
    size: tuple[int, int]
    chain: Chain
    shift: tuple[int, int] = (0, 0)
    ageing: Ageing | None = None
    patch: Patch | None = None
    colour: ColourChange = field(default_factory=ColourChange)
    colour_on_target: bool = False
    keep_small: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON. Raises UsageError if `data` is no such record."""
        try:
            values = dict(data)
            values["size"] = tuple(values["size"])
            values["shift"] = tuple(values["shift"])
            values["chain"] = Chain.from_dict(values["chain"])
            values["ageing"] = values["ageing"] and Ageing(**values["ageing"])
            if values["patch"]:
                patch = dict(values["patch"])
                values["patch"] = Patch(**{**patch, "chain": Chain.from_dict(patch["chain"])})
            colour = dict(values["colour"])
            colour.update(shift=tuple(colour["shift"]), steps=tuple(colour["steps"]))
            values["colour"] = ColourChange(**colour)
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a degradation record written by this version: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"a degradation record must be JSON: {error}") from error
        return cls.from_dict(data)


def check_order(order: tuple[str, ...]) -> None:
    """Raises UsageError unless `order` names every step once, with `up` after `down`."""
    if sorted(order) != sorted(STEPS) or order.index("up") < order.index("down"):
        raise UsageError(f"degradation order must name {', '.join(STEPS)} once each, up after down; got {list(order)}")
