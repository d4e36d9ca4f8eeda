"""The published ONNX graphs of this system, taken over as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import FacewrightError
from .network import YuNet

if TYPE_CHECKING:
    from pathlib import Path


def is_graph(path: str | Path) -> bool:
    """Whether an ONNX file is one of this system."""
    try:
        YuNet.from_graph(path)
    except FacewrightError:
        return False
    return True


def import_onnx(path: str | Path) -> YuNet:
    """The system with the graph of an ONNX file; WeightsError when it is none, or one of another network."""
    return YuNet.from_graph(path)
