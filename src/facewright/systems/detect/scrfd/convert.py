"""The published ONNX graphs of this system, taken over as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import FacewrightError
from .network import SCRFD

if TYPE_CHECKING:
    from pathlib import Path


def is_graph(path: str | Path) -> bool:
    """Whether an ONNX file is one of this system."""
    try:
        SCRFD.from_graph(path)
    except FacewrightError:
        return False
    return True


def import_onnx(path: str | Path) -> SCRFD:
    """The system with the graph of an ONNX file; WeightsError when it is none, or one of another network."""
    return SCRFD.from_graph(path)
