"""Parts of a face drawn anew by an up-sampler, with the trace that each kind of up-sampler leaves.

Decoders of generators enlarge in steps, and every way of enlarging has a grid of its own in the result. A part is
reduced by averaging and enlarged again by one of four: strided transposed convolution, whose kernel does not cover all
pixels evenly; nearest neighbour; pixel shuffle, whose phases differ in gain; bilinear. A small sharpening kernel stands
in for the decoder's last convolution. No network is trained for this: the trace is the kernel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np

from ...errors import UsageError
from .blend import mix
from .record import Forgery, check_points
from .regions import Region, feathered, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Points = NDArray[np.floating]

Upsampler = Literal["transposed", "nearest", "shuffle", "bilinear"]
SEAM = 0.03
"""Width of the seam around a part that was drawn anew, as a share of the picture's side."""


def enlarge(small: NDArray[np.float32], how: Upsampler, rng: Generator) -> NDArray[np.float32]:
    """(H, W, C) to (2H, 2W, C) by an up-sampler whose kernel is drawn from `rng`."""
    height, width = small.shape[:2]
    if how == "bilinear":
        out = cv2.resize(small, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    elif how == "nearest":
        out = small.repeat(2, 0).repeat(2, 1)
    elif how == "shuffle":
        out = small.repeat(2, 0).repeat(2, 1) * np.tile(1 + rng.normal(0, 0.03, (2, 2)), (height, width))[..., None]
    elif how == "transposed":
        spread = np.zeros((2 * height, 2 * width, small.shape[2]), np.float32)
        spread[::2, ::2] = small
        row = np.array([1, 2 + rng.uniform(-0.3, 0.3), 1])
        out = cv2.filter2D(spread, -1, np.outer(row, row) / 4, borderType=cv2.BORDER_REFLECT_101)
    else:
        raise UsageError(f"unknown up-sampler {how!r}; choose from {', '.join(get_args(Upsampler))}")
    return np.asarray(out, np.float32)


def redrawn(image: Image, how: Upsampler, rng: Generator, *, steps: int = 1) -> Image:
    """An (H, W, 3) uint8 RGB picture, H and W multiples of 2^steps, reduced and enlarged again that many times."""
    height, width = image.shape[:2]
    factor = 2**steps
    if height % factor or width % factor:
        raise UsageError(f"{width}×{height} pixels are no multiples of {factor}")
    small = cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    x = np.asarray(small, np.float32)
    kernel = _last_layer(rng)
    for _ in range(steps):
        drawn = cv2.filter2D(enlarge(x, how, rng), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        x = np.asarray(drawn, np.float32)
    return np.asarray((x + 0.5).clip(0, 255), np.uint8)


def _last_layer(rng: Generator) -> NDArray[np.float32]:
    """A 3×3 kernel of sum 1 that sharpens a little and is not quite symmetric."""
    kernel = np.zeros((3, 3), np.float32)
    kernel[1, 1] = 1
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    kernel += np.float32(rng.uniform(0.2, 0.8)) * (kernel - blur.astype(np.float32))
    noise = rng.normal(0, 0.02, (3, 3)).astype(np.float32)
    return np.asarray(kernel + noise - noise.mean(), np.float32)


def resynthesise(
    image: Image,
    points68: Points,
    regions: Sequence[Region],
    how: Upsampler,
    rng: Generator,
    *,
    steps: int = 1,
    parent: str = "self",
) -> Forgery:
    """The picture with some parts drawn anew; the mask is what was pasted, whether or not a pixel changed."""
    check_points(image, points68)
    shape = image.shape[:2]
    mask = feathered(union(points68, tuple(regions), shape), SEAM * shape[0])
    return Forgery(mix(image, redrawn(image, how, rng, steps=steps), mask), mask, f"resynthesis-{how}", (parent,))


def change_map(before: Image, after: Image, *, least: float = 2.0) -> NDArray[np.float32]:
    """FakeLocator's truth: (H, W) grey level of the absolute difference in [0, 1], what is under `least` levels 0."""
    difference = cv2.absdiff(before, after).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.where(difference < least, np.float32(0), difference / np.float32(255)).astype(np.float32)
