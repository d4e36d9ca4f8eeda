"""What an ONNX graph of unknown origin is: a sketch of it, and which systems it is likest."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

Shapes = dict[str, list[Any]]
"""Names to shapes, in order; a side of any length is text or None."""


@dataclass(frozen=True, slots=True, eq=False)
class GraphSketch:
    """A graph without its numbers.

    inputs, outputs: what goes in and comes out. operators: how often each kind occurs. names: of its stored tensors,
    which exporters take from the state dict as far as they fold nothing. parameters: how many numbers it stores.
    """

    inputs: Shapes
    outputs: Shapes
    operators: Mapping[str, int]
    names: frozenset[str]
    parameters: int

    @property
    def picture(self) -> list[Any]:
        """The shape of the only input; [] for a graph with several or none."""
        return next(iter(self.inputs.values())) if len(self.inputs) == 1 else []

    @property
    def side(self) -> int:
        """Side of the square picture it takes; 0 for one that takes other things, or any size."""
        shape = self.picture
        square = len(shape) == 4 and 3 in (shape[1], shape[3]) and shape[2] in (shape[1], shape[3])
        return int(shape[2]) if square and isinstance(shape[2], int) else 0


def sketch(path: str | Path) -> GraphSketch:
    """The sketch of an ONNX file; WeightsError when it is none."""
    try:
        state = Path(path).stat()
    except OSError as error:
        raise WeightsError(f"no ONNX file at {path} ({error.strerror})") from error
    return _sketched(str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _sketched(path: str, size: int, changed: int) -> GraphSketch:
    """The sketch of a file of that size and time; several systems look at one file, one after the other."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("reading ONNX files needs: pip install 'facewright[onnx]'") from error
    try:
        model = onnx.load(path, load_external_data=False)
        if not all(_known(value) for value in model.graph.output):
            model = onnx.shape_inference.infer_shapes(model)
        graph = model.graph
        stored = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
        inputs = {value.name: _shape(value) for value in graph.input if value.name not in stored}
        outputs = {value.name: _shape(value) for value in graph.output}
    except Exception as error:  # a damaged file fails in every way there is
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"{path} is not a readable ONNX file ({reason})") from error
    if not outputs:
        raise WeightsError(f"{path} is not a readable ONNX file (it has no outputs)")
    operators = Counter(node.op_type for node in graph.node)
    return GraphSketch(inputs, outputs, operators, frozenset(stored), sum(stored.values()))


def _known(value: Any) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _shape(value: Any) -> list[Any]:
    return [side.dim_value or side.dim_param or None for side in value.type.tensor_type.shape.dim]


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """What a graph of a network would have.

    side: of its square picture, 0 for any. parameters: how many numbers. operators: how many of each kind that no
    exporter folds away or splits. keys: patterns with which names of its tensors begin.
    """

    side: int
    parameters: int
    operators: Mapping[str, int]
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, side: int, keys: tuple[str, ...] = ()) -> Outline:
        """The outline of a network; its numbers need not be there."""
        kinds = (_OPERATORS.get(base.__name__) for module in network.modules() for base in type(module).__mro__)
        parameters = sum(weight.numel() for weight in network.parameters())
        return cls(side, parameters, Counter(kind for kind in kinds if kind), keys)


_OPERATORS = {
    "Conv2d": "Conv",
    "EqualConv": "Conv",
    "ModulatedConv": "Conv",
    "ConvTranspose2d": "ConvTranspose",
    "Linear": "Gemm",
    "EqualLinear": "Gemm",
    "PReLU": "PRelu",
    "LayerNorm": "LayerNormalization",
}
_ALIKE = {"MatMul": "Gemm", "FusedConv": "Conv"}


def likeness(graph: GraphSketch, outline: Outline) -> float:
    """How much a graph is like a network, 0 to 1: the mean of picture, size, operators and, with its keys, names."""
    bare = [re.sub(r"^(?:module|model|net|backbone)\.", "", name) for name in graph.names]
    shares = [
        1.0 if graph.side == outline.side else 0.5 if not (graph.side and outline.side) else 0.0,
        min(graph.parameters, outline.parameters) / max(graph.parameters, outline.parameters, 1),
        _overlap(graph.operators, outline.operators),
    ]
    named = [any(re.match(key, name) for name in (*graph.names, *bare)) for key in outline.keys]
    if any(named):  # exporters may have renamed everything, which says nothing
        shares.append(sum(named) / len(named))
    return sum(shares) / len(shares)


def _overlap(graph: Mapping[str, int], network: Mapping[str, int]) -> float:
    """Which part of the operators of either is in both."""
    found: Counter[str] = Counter()
    for kind, count in graph.items():
        found[_ALIKE.get(kind, kind)] += count
    kinds = set(_OPERATORS.values())
    most = sum(max(found[kind], network.get(kind, 0)) for kind in kinds)
    return sum(min(found[kind], network.get(kind, 0)) for kind in kinds) / most if most else 0.0
