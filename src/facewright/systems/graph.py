"""Systems whose network is an ONNX graph somebody published, run by onnxruntime instead of torch.

Such a system is loaded, moved to a device and asked like any other, but has no parameters: it cannot be trained, and
without its graph it can do nothing. What surrounds the graph (input contract, decoding) is this project's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import FacewrightError, MissingDependencyError, WeightsError
from ..io.atomic import atomic_output
from ..tasks.card import Preprocess
from ..weights.graphs import sketch
from ..weights.store import resolve, sha256
from .base import CONFIG_FILE, System

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..weights.graphs import GraphSketch

GRAPH_FILE = "model.onnx"


class GraphSystem(System):
    """Base of systems that run an ONNX graph. A subclass says by `accepts` which graphs are its own, and by
    `config_of` what they tell."""

    def __init__(self, config: Any = None, graph: bytes = b"") -> None:
        super().__init__(config)
        self.graph = graph
        self.register_buffer("place", torch.zeros(1), persistent=False)  # knows the device
        self._session: tuple[torch.device, Any] | None = None

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        """Whether a graph is one of this system."""
        raise NotImplementedError(f"{cls.__name__} must declare its graphs")

    @classmethod
    def config_of(cls, graph: GraphSketch) -> Any:
        """The configuration that goes with a graph of this system."""
        return cls.Config()

    @classmethod
    def from_graph(cls, path: str | Path) -> Self:
        """The system with the graph of an ONNX file; WeightsError when it is none, or one of another network."""
        content = _read(Path(path))
        session = _open(content, torch.device("cpu"), str(path))
        graph = replace(sketch(path), inputs=_shapes(session.get_inputs()), outputs=_shapes(session.get_outputs()))
        if not cls.accepts(graph):
            raise WeightsError(f"{path} is an ONNX file, but not one of {cls.slug}")
        return cls(cls.config_of(graph), content).eval()

    @classmethod
    def knows(cls, path: str | Path) -> bool:
        """Whether an ONNX file looks like one of this system; told without running it."""
        try:
            return cls.accepts(sketch(path))
        except FacewrightError:
            return False

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, commercial: bool = False, local_files_only: bool = False
    ) -> Self:
        """As for any system; `source` may also be an ONNX file."""
        path = resolve(cls.card(), source, commercial=commercial, local_files_only=local_files_only)
        beside = path.with_name(CONFIG_FILE)
        try:
            stored = json.loads(beside.read_text(encoding="utf-8"))
            config = cls.config_from(stored["config"])
            contract = Preprocess.from_dict(stored["preprocess"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise WeightsError(f"{beside} cannot be read ({error!r}); import the ONNX file again") from error
        if stored["slug"] != cls.slug:
            raise WeightsError(f"{path} holds a graph of {stored['slug']!r}, not of {cls.slug!r}")
        if contract != cls.preprocess_for(config):
            raise WeightsError(f"{path} was made for another input than {cls.slug} feeds; import the ONNX file again")
        model = cls(config, _read(path))
        model.session(str(path))
        model.weights_sha256 = sha256(path)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write the graph and `config.json`; returns the folder. The numbers stay as they are, whatever `dtype`."""
        if not self.graph:
            raise WeightsError(f"this {self.slug} has no graph to save")
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with atomic_output(target / GRAPH_FILE, overwrite=True) as temporary:
            temporary.write_bytes(self.graph)
        (target / CONFIG_FILE).write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
        return target

    def session(self, name: str = "") -> Any:
        """The graph, ready to run on this system's device."""
        if self._session is None or self._session[0] != self.device:
            self._session = self.device, _open(self.graph, self.device, name or self.slug)
        return self._session[1]

    def run(self, image: Tensor) -> list[NDArray[np.float32]]:
        """The outputs of the graph, in its order, for the only input."""
        session = self.session()
        found: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: image.cpu().numpy()})
        return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no ONNX file at {path} ({error.strerror})") from error


def _open(graph: bytes, device: torch.device, name: str) -> Any:
    if not graph:
        raise WeightsError(f"{name} has no embedded network; download a published one: facewright download {name}")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(f"{name} runs an ONNX graph: pip install 'facewright[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=wanted)
    except Exception as error:  # a damaged file fails in every way there is
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"{name} is not a readable ONNX file ({reason})") from error


def _shapes(values: Any) -> dict[str, list[Any]]:
    """Names to shapes of a session's inputs or outputs, which it infers where the file does not say them."""
    return {value.name: list(value.shape) for value in values}


class RunsGraphs(System):
    """Mixin of systems with a network of their own that others have published as ONNX graphs as well.

    `Graph` runs those; `from_pretrained` gives one where the weights are a graph.
    """

    Graph: ClassVar[type[GraphSystem]]

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, commercial: bool = False, local_files_only: bool = False
    ) -> Self:
        """As for any system; the weights may also be an ONNX file or a folder with one."""
        path = resolve(cls.card(), source, commercial=commercial, local_files_only=local_files_only)
        if path.suffix == ".onnx":
            return cls.Graph.from_pretrained(path)  # type: ignore[return-value]
        return super().from_pretrained(path)
