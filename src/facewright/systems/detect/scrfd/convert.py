"""The published ONNX graphs of this system, taken over as they are."""

from __future__ import annotations

from .network import SCRFD

is_graph = SCRFD.knows
import_onnx = SCRFD.from_graph
