"""Networks as ONNX files for other runtimes, each checked against the PyTorch network it was made from.

The graph takes what the network's `preprocess` makes of a picture; the record travels in the file's metadata. What
surrounds a network here (alignment, decoding of a detector's anchors, pasting) is not part of the graph.
"""

from __future__ import annotations

import copy
import io
import json
import keyword
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MissingDependencyError, UsageError, WeightsError
from ..io.atomic import atomic_output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..systems.base import System

_SIZES = ((640, 480), (255, 387))  # traced, and compared: odd, so that every rounding of a side is
_FOLDED = 1 << 24  # bytes of the largest weight that is computed beforehand
TOLERANCE = 1e-3
"""Largest difference to PyTorch that is let through, relative to the largest value of an output."""


@dataclass(frozen=True, slots=True)
class OnnxForm:
    """How a system is exported: its outputs by name, and whether the network takes pictures of any size."""

    outputs: tuple[str, ...]
    any_size: bool = False


FORMS = {
    "frgp": OnnxForm(("restored", "degradation")),
    "mos": OnnxForm(("logits", "boxes", "points", "angles"), any_size=True),
    "distilledface": OnnxForm(("embedding",)),
}


@dataclass(frozen=True, slots=True)
class OnnxReport:
    """What was written. `difference`: of each output to PyTorch's, relative to its largest value."""

    path: Path
    bytes: int
    difference: dict[str, float]


def export_onnx(model: System, path: Path, *, overwrite: bool = False) -> OnnxReport:
    """Write a network as ONNX and compare it with PyTorch on other pictures.

    Input `image` (N, 3, S, S) float32, as `model.normalise` makes it; N is free and S that of the network, for a
    detector (N, 3, H, W) of any size. Raises MissingDependencyError without the
    `onnx` extra, UsageError for a system that has no ONNX form, WeightsError when the file computes something else.
    Nothing is left behind then.
    """
    form = FORMS.get(model.slug)
    if form is None:
        raise UsageError(f"{model.slug} has no ONNX form; there is one for {', '.join(sorted(FORMS))}")
    program = _trace(_Plain(_without_keywords(model)).eval(), form, model)
    _describe(program, model)
    with atomic_output(path, overwrite=overwrite) as temporary:
        _save(program, temporary)
        difference = _compare(temporary, model, form)
        wrong = [f"{name} by {value:.1e}" for name, value in difference.items() if not value <= TOLERANCE]
        if wrong:
            raise WeightsError(f"the ONNX file of {model.slug} differs from PyTorch: {', '.join(wrong)}")
    return OnnxReport(path, path.stat().st_size, difference)


class _Plain(nn.Module):
    """The network as a function from one tensor to a tuple of tensors."""

    def __init__(self, model: System) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.model.slug == "frgp":
            restored, aux = self.model(image, return_aux=True)
            return restored, aux["degradation"]
        out = self.model(image)
        return tuple(out) if isinstance(out, tuple) else (out,)


def _without_keywords(model: System) -> System:
    """A copy in which no part is named by a word of the language: the exporter writes names into a program."""
    twin = copy.deepcopy(model)
    for part in list(twin.modules()):
        if isinstance(part, nn.ModuleDict) and any(keyword.iskeyword(key) for key in part):
            renamed = {f"{key}_": child for key, child in part.items()}
            part.clear()
            part.update(renamed)
    return twin


def _trace(network: _Plain, form: OnnxForm, model: System) -> Any:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("ONNX export needs: pip install 'facewright[onnx]'") from error
    with torch.no_grad(), _quiet():
        return torch.onnx.export(
            network,
            (_pictures(model, form, seed=0),),
            input_names=["image"],
            output_names=list(form.outputs),
            dynamic_shapes={"image": dict.fromkeys((0, 2, 3) if form.any_size else (0,), torch.export.Dim.DYNAMIC)},
            dynamo=True,
        )


def _pictures(model: System, form: OnnxForm, seed: int) -> Tensor:
    """Two or more noise pictures, normalised, of other sizes for other seeds where the network takes any."""
    height, width = _SIZES[seed] if form.any_size else (model.preprocess.size,) * 2
    pixels = np.random.default_rng(seed).integers(0, 256, (2 + seed, height, width, 3), dtype=np.uint8)
    return model.normalise(pixels)


def _describe(program: Any, model: System) -> None:
    program.model.producer_name = "facewright"
    notes = {"slug": model.slug, "preprocess": asdict(model.preprocess), "config": asdict(model.config)}
    program.model.metadata_props["facewright"] = json.dumps(notes, sort_keys=True)


def _save(program: Any, path: Path) -> None:
    """Write the graph as quantisers want it: what is computed from weights alone is a weight, and no weight's shape is
    noted, for they transpose weights and stumble over old notes."""
    import onnx
    from onnxscript import optimizer

    optimizer.optimize(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    model = program.model_proto
    weights = {weight.name for weight in model.graph.initializer}
    noted = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(noted)
    onnx.save(model, str(path))


def _compare(path: Path, model: System, form: OnnxForm) -> dict[str, float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = _pictures(model, form, seed=1)
    with torch.inference_mode():
        expected = _Plain(model)(image)
    found = session.run(list(form.outputs), {"image": image.contiguous().numpy()})
    return {name: _relative(got, want.numpy()) for name, got, want in zip(form.outputs, found, expected)}


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape:
        return float("inf")
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-12))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of optional packages that are not here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
