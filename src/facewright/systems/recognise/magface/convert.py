"""Published checkpoints: which of the margin recognisers a file holds is told by its keys."""

from ..published import import_onnx, import_published

KEYS = (
    r"features\.(module\.)?conv1\.",
    r"features\.(module\.)?layer1\.0\.prelu\.",
    r"features\.(module\.)?features\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

__all__ = ["import_onnx", "import_published"]
