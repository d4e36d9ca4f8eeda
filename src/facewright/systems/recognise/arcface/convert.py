"""Published checkpoints: which of the margin recognisers a file holds is told by its keys."""

from ..published import import_onnx, import_published

__all__ = ["import_onnx", "import_published"]
