"""Published checkpoints: which of the margin recognisers a file holds is told by its keys."""

from ..published import import_onnx, import_published

KEYS = (
    r"(model\.|net\.)?input_layer\.0\.",
    r"(model\.|net\.)?body\.0\.res_layer\.5\.",
    r"(model\.|net\.)?output_layer\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

__all__ = ["import_onnx", "import_published"]
