"""Published checkpoints: which of the margin recognisers a file holds is told by its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import published
from ..published import import_onnx, import_published

if TYPE_CHECKING:
    from pathlib import Path

KEYS = (
    r"(conv1\.|layers\.0\.layers\.0\.|patch_embed\.proj\.|input_layer\.0\.)",
    r"(layer1\.0\.prelu\.|conv_sep\.layers\.0\.|blocks\.0\.attn\.|body\.0\.res_layer\.5\.fc1\.)",
    r"(features\.|feature\.0\.|output_layer\.)",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def is_graph(path: str | Path) -> bool:
    """Whether an ONNX file holds one of insightface's recognisers."""
    return published.is_graph(path, "arcface")


__all__ = ["import_onnx", "import_published", "is_graph"]
