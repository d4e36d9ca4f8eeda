"""The published ONNX graph of this system, taken over as it is."""

from __future__ import annotations

from .network import Insight68

is_graph = Insight68.knows
import_onnx = Insight68.from_graph
