"""The published ONNX graph of this system, taken over as it is."""

from __future__ import annotations

from .network import PFLD

is_graph = PFLD.knows
import_onnx = PFLD.from_graph
