"""What an ONNX graph of unknown origin is: a sketch of it, and which systems it is likest."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        import onnx
    except ImportError as error:
        raise MissingDependencyError("reading ONNX files needs: pip install 'facewright[onnx]'") from error
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"no ONNX file at {path}")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
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


def _shape(value: Any) -> list[Any]:
    return [side.dim_value or side.dim_param or None for side in value.type.tensor_type.shape.dim]


def likeness(graph: GraphSketch, keys: tuple[str, ...], side: int, parameters: int, operators: frozenset[str]) -> float:
    """How much a graph is like a network, from 0 to 1, as the mean of what can be compared.

    keys: patterns of which some published key begins with each; side: of the network's square picture, 0 for any;
    parameters: of the network; operators: those a graph of it cannot do without.
    """
    bare = {name.removeprefix("module.").removeprefix("model.") for name in graph.names}
    named = sum(any(re.match(pattern, name) for name in bare) for pattern in keys) / len(keys) if keys else 0.0
    if graph.side and side:
        shaped = 1.0 if graph.side == side else 0.0
    else:
        shaped = 0.5 if graph.side == side else 0.0
    sized = min(graph.parameters, parameters) / max(graph.parameters, parameters, 1)
    does = len(operators & set(graph.operators)) / len(operators) if operators else 0.0
    return (2 * named + shaped + sized + does) / 5
