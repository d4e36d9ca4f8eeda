"""The published ONNX graphs of this system, taken over as they are."""

from __future__ import annotations

from .network import YuNet

is_graph = YuNet.knows
import_onnx = YuNet.from_graph
