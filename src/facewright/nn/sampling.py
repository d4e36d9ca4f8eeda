"""Reading maps at places between their pixels. Coordinates never have less precision than float32.

bfloat16 holds eight bits: a coordinate of a 160 px map is then off by a quarter of a pixel or more. torch 2.13 does the
arithmetic of `grid_sample` in the type of its arguments and, on the processor, reads outside of 16-bit maps of more
than 32,768 pixels. Everything that samples therefore goes through `sample`, and everything that computes coordinates
through `exact`, which also keeps autocast away from their matrix products.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def sample(
    images: Tensor, grid: Tensor, *, align_corners: bool, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """`grid_sample` in float32 (float64 for such images): (N, C, H, W) at (N, h, w, 2) to (N, C, h, w) in their type.

    `align_corners`: whether −1 and 1 are the centres of the outermost pixels or their outer edges. Raises UsageError
    for a grid of 16 bits, whose places are lost already.
    """
    if _is_narrow(grid):
        raise UsageError(f"coordinates in {grid.dtype} are too coarse to sample with; compute them in float32")
    dtype = torch.promote_types(images.dtype, torch.float32)
    with torch.autocast(images.device.type, enabled=False):
        read = F.grid_sample(images.to(dtype), grid.to(dtype), mode, padding_mode, align_corners)
    return read.to(images.dtype)


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of coordinates compute in float32 at least: autocast is off, 16-bit arguments are widened."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with ExitStack() as stack:
            for device in {tensor.device.type for tensor in tensors}:
                stack.enter_context(torch.autocast(device, enabled=False))
            wide: Any = [_widened(value) for value in args], {key: _widened(value) for key, value in kwargs.items()}
            return function(*wide[0], **wide[1])

    return call


def pixels(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2) x and y of every pixel on the device of `like`, in its type or float32 if that is narrower."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    rows, columns = (torch.arange(side, device=like.device, dtype=dtype) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1)


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and _is_narrow(value) else value
