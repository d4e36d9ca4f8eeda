"""Every row of the catalogue that can be fetched, from its address to a network.

A server on this machine plays the published addresses, badly at first. What it sends has the names, shapes, wrappers
and container of the published file, but one number stands for all of a tensor: so it is small, and becomes a network of
the full size on the meta device. Small networks are also saved and loaded again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import pickle
import sys
import zipfile
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from tests.weights.layouts import LAYOUTS
from torch import nn

from facewright.errors import WeightsError
from facewright.nn import stylegan2 as s2
from facewright.systems.base import system_class
from facewright.tasks.card import cards
from facewright.weights import catalogue, published, store
from facewright.weights.terms import terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from facewright.tasks.card import Card, PublishedFile

SMALL = 4_000_000
"""Numbers of a network that is saved and loaded as well."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROWS = {f"{card.slug}/{row.name}": (card, row) for card in cards().values() for row in card.published if row.fetchable}
GRAPHS = sorted(name for name, (_, row) in ROWS.items() if row.container == "onnx")
TENSORS = sorted(name for name, (_, row) in ROWS.items() if row.container != "onnx")

BAGGAGE: dict[str, dict[str, tuple[int, ...]]] = {
    "restoreformer": {"loss.discriminator.main.0.weight": (64, 3, 4, 4)},
    "adaface": {"head.kernel": (512, 10)},
    "facenet": {"logits.weight": (8631, 512), "logits.bias": (8631,)},
    "refldm": {"betas": (1000,), "alphas_cumprod": (1000,)},
    "refldm_vqgan": {"loss.perceptual_loss.lin0.model.1.weight": (1, 64, 1, 1)},
}
"""What published files carry beside the network."""


def test_every_row_has_a_stand_in() -> None:
    assert set(TENSORS) == set(LAYOUTS)


# --- files


def stand_ins(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that hold one number each."""
    whole = ("num_batches_tracked", "position_ids", "relative_position_index")
    return {
        key: torch.zeros((), dtype=torch.int64 if key.endswith(whole) else torch.float32).expand(shape)
        for key, shape in shapes.items()
    }


def file_of(row: PublishedFile, state: dict[str, torch.Tensor]) -> bytes:
    """The tensors in the container and under the key of the published file."""
    if row.container == "torchscript":
        return archive_of(state)
    if row.container == "nvidia":
        return nvidia_pickle({"G": nested({}), "D": nested({}), "G_ema": nested(state)})
    if row.container == "tensorflow":
        return tensorflow_pickle(state)
    wrapper = row.wrapper.partition(" or ")[0]
    content: Any = {wrapper: state} if wrapper else state
    if row.container == "lightning":
        content = {"epoch": 3, "global_step": 5000, "pytorch-lightning_version": "1.0.8", "callbacks": {}} | content
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=row.container != "legacy")
    return stream.getvalue()


class Scripted(nn.Module):
    """A tree of modules with tensors under given names, for torch's own archives."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            head, _, rest = key.partition(".")
            if rest:
                parts.setdefault(head, {})[rest] = value
            else:
                self.register_buffer(head, value)
        for name, inner in parts.items():
            self.add_module(name, Scripted(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive_of(state: Mapping[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(Scripted(state).eval(), torch.zeros(1)), stream)
    return stream.getvalue()


class Saved:
    """A module as NVIDIA pickles it: the name of a loader that would run the source, and the state."""

    def __init__(self, **state: Any) -> None:
        self.state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": False} | state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def nested(state: Mapping[str, torch.Tensor]) -> Saved:
    own = {key: nn.Parameter(value) for key, value in state.items() if "." not in key}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            parts.setdefault(head, {})[rest] = value
    return Saved(_parameters=own, _modules={name: nested(inner) for name, inner in parts.items()})


def nvidia_pickle(content: Any) -> bytes:
    """Written while NVIDIA's modules seem to be there."""
    module = ModuleType("torch_utils.persistence")

    def rebuild(meta: Any) -> None:
        raise AssertionError("the published loader was called")

    rebuild.__module__, rebuild.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = rebuild  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
        patch.setitem(sys.modules, "torch_utils.persistence", module)
        return pickle.dumps(content)


def tensorflow_pickle(state: Mapping[str, torch.Tensor]) -> bytes:
    """A generator of the full size holds too many numbers for a test; its reader takes a narrow one as well."""
    tests = importlib.import_module("tests.weights.test_tensorflow")
    torch.manual_seed(0)
    narrow = s2.Generator(1024, style_dim=512, widths=(4,) * 9, mapping_layers=8)
    assert s2.to_nvidia(narrow.state_dict()).keys() == state.keys()
    mapping, synthesis = tests.variables(narrow)
    network = tests.Network({}, mapping=tests.Network(mapping), synthesis=tests.Network(synthesis))
    return bytes(tests.written((tests.Network(), tests.Network(), network)))


# --- from the address on


@pytest.fixture
def fetched(served: Any, home: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Fetch a file that a mirror holds under a row's published address: the row as it is then, and the file."""
    monkeypatch.setenv("FACEWRIGHT_MIRROR", served.address)

    def fetch(card: Card, row: PublishedFile, content: bytes) -> tuple[PublishedFile, Path]:
        sent = content
        if row.member:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(row.member, content)
            sent = stream.getvalue()
        path = mirror_path(row.urls[0])
        served.files[path] = sent
        served.plan[path] = ["503", "cut", "cut"]
        mine = dataclasses.replace(row, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        with terms(accept_licence=True):
            found = catalogue.download(card, mine)
            assert found.read_bytes() == content
            other = dataclasses.replace(row, sha256="1" * 64, size_bytes=len(content))
            with pytest.raises(WeightsError, match="instead of 1111"):
                catalogue.download(card, other)
        assert not (home / "files" / ("1" * 64) / row.file).exists()
        return mine, found

    return fetch


def mirror_path(address: str) -> str:
    if not address.startswith("hf://"):
        return address.removeprefix("https:/")
    owner, name, path = address.removeprefix("hf://").split("/", 2)
    name, _, revision = name.partition("@")
    return f"/huggingface.co/{owner}/{name}/resolve/{revision}/{path}"


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_from_the_address_into_the_network(
    name: str, fetched: Any, request: pytest.FixtureRequest
) -> None:
    card, row = ROWS[name]
    shapes = LAYOUTS[name](lambda: request.getfixturevalue("shared_dir") / "parity") | BAGGAGE.get(card.slug, {})
    row, path = fetched(card, row, file_of(row, stand_ins(shapes)))
    assert card.slug in published.recognise(path).systems  # told by names and shapes, whatever the file is called
    state = {key: value.to("meta") for key, value in store.load_published(path).items()}
    with torch.device("meta"):
        model = published._converter(card).import_published(state, **row.options)
    assert model.slug == card.slug
    assert model.preprocess == row.preprocess
    if row.preset:
        preset = system_class(card.slug).preset(row.preset)
        told = {name: getattr(model.config, name) for name in ("classes", "size") if hasattr(preset, name)}
        assert model.config == dataclasses.replace(preset, **told)
    if sum(weight.numel() for weight in model.parameters()) > SMALL:
        return
    with terms(accept_licence=True):
        folder = catalogue.obtain(card, row)
    loaded = system_class(card.slug).from_pretrained(folder)
    assert loaded.config == model.config
    assert all(not weight.is_meta for weight in loaded.parameters())


# --- graphs


def plain_graph(taken: list[int], given: list[int], spare: int = 1, *, gated: bool = False) -> bytes:
    """An ONNX file that takes and gives tensors of these shapes and stores so many numbers; `gated` by a sigmoid."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("input", taken), ("output", given))]
    stored = [numpy_helper.from_array(np.array(given, np.int64), "shape")]
    stored.append(numpy_helper.from_array(np.zeros(spare, np.float32), "spare"))
    made = "before" if gated else "output"
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [made])]
    nodes += [helper.make_node("Sigmoid", ["before"], ["output"])] if gated else []
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def recogniser_graph(backbone: nn.Module, path: Path, *, scaled: bool = False) -> bytes:
    tests = importlib.import_module("tests.systems.recognise.test_published")
    writer = tests.Exporter(fold=True)
    start = tests.pixels_scaled(writer, 127.5, 1 / 128) if scaled else "data"
    draw = writer.iresnet if hasattr(backbone, "layer1") else writer.mobilefacenet
    return bytes(writer.save(draw(start, backbone), path).read_bytes())


def graph_of(name: str, row: PublishedFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file with the inputs and outputs of the published one; how many numbers it must store is made less."""
    slug = name.partition("/")[0]
    cls = system_class(slug)
    side = row.preprocess.size
    if slug in ("yunet", "scrfd"):
        return bytes(importlib.import_module(f"tests.systems.detect.test_{slug}").graph(path).read_bytes())
    if slug in ("arcface", "sface"):
        backbone = {"arcface/w600k-mbf": "mbf", "arcface/w600k-r50": "iresnet50"}.get(name, "iresnet100")
        model = cls(cls.Config("mobilefacenet", 128) if slug == "sface" else cls.Config(backbone))
        return recogniser_graph(cast("nn.Module", model.eval().backbone), path, scaled=slug == "sface")
    if slug in ("insight68", "pfld"):
        return plain_graph([1, 3, side, side], [1, 3309 if slug == "insight68" else 136])
    if slug == "minifasnet":
        return plain_graph([1, 3, side, side], [1, 3], gated=row.preset == "v1se")
    answers = {"ediffiqa": [1, 1], "bisenet": [1, 19, side, side], "gpen": [1, 3, side, side]}
    network = importlib.import_module(cls.__module__)
    mine = side if slug == "gpen" else row.preset
    counts = {key: 1000 if key == mine else 10**9 for key in network._PARAMETERS}
    monkeypatch.setattr(network, "_PARAMETERS", counts)
    return plain_graph([1, 3, side, side], answers[slug], 1000)


LARGE = ("arcface/auraface", "arcface/glint360k-r100", "arcface/w600k-r50")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in GRAPHS])
def test_graphs_come_from_the_address_and_run(
    name: str, fetched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    card, row = ROWS[name]
    row, path = fetched(card, row, graph_of(name, row, tmp_path / "any.onnx", monkeypatch))
    assert published.recognise(path).systems == (card.slug,)
    with terms(accept_licence=True):
        folder = catalogue.obtain(card, row)
    loaded = system_class(card.slug).from_pretrained(folder)
    assert loaded.preprocess == row.preprocess
    if row.preset:
        assert loaded.config == system_class(card.slug).preset(row.preset)
