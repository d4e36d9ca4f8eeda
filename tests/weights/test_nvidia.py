"""NVIDIA's StyleGAN pickles: their tensors are read, their code is not run."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from facewright.errors import UnsafeWeightsError, WeightsError
from facewright.nn import stylegan2 as s2
from facewright.systems.synthesise.stylegan2 import convert as system
from facewright.weights.nvidia import is_nvidia_pickle, load_nvidia
from facewright.weights.store import load_published

if TYPE_CHECKING:
    from pathlib import Path

CODE = "import os\nos.environ['FACEWRIGHT_TEST_CODE_RAN'] = '1'\n"


class Saved:
    """Pickles as the published module base does: the name of a loader that would run `module_src`, and the state."""

    def __init__(self, **state: Any) -> None:
        self.state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": False} | state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": CODE, "class_name": "Generator", "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a pickle while the published modules seem to be there; they are gone when it is read."""

    def call(content: Any) -> Path:
        path = tmp_path / "network.pkl"
        module = ModuleType("torch_utils.persistence")

        def rebuild(meta: Any) -> None:
            raise AssertionError("the published loader was called")

        rebuild.__module__, rebuild.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
        module._reconstruct_persistent_obj = rebuild  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
            patch.setitem(sys.modules, "torch_utils.persistence", module)
            path.write_bytes(pickle.dumps(content))
        return path

    return call


def nested(state: dict[str, torch.Tensor]) -> Saved:
    """Modules that hold these tensors under dotted names."""
    own = {k: v for k, v in state.items() if "." not in k}
    parts: dict[str, Any] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            parts.setdefault(head, {})[rest] = value
    parameters = {k: torch.nn.Parameter(v) for k, v in own.items() if "noise_const" not in k}
    buffers = {k: v for k, v in own.items() if "noise_const" in k}
    return Saved(
        _parameters=parameters | {"none": None},
        _buffers=buffers,
        _modules={k: nested(v) for k, v in parts.items()},
    )


@torch.no_grad()
def test_generator_of_a_pickle_gives_its_pictures(write, monkeypatch):
    monkeypatch.delenv("FACEWRIGHT_TEST_CODE_RAN", raising=False)
    torch.manual_seed(0)
    net = s2.Generator(16, style_dim=8, widths=(12, 10, 8), mapping_layers=2)
    path = write({"G": nested({}), "D": nested({}), "G_ema": nested(s2.to_nvidia(net.state_dict()))})
    assert is_nvidia_pickle(path)
    model = system.import_published(load_published(path))
    z = torch.randn(2, 8)
    torch.testing.assert_close(model(z), net(net.mapping(z)))
    import os

    assert "FACEWRIGHT_TEST_CODE_RAN" not in os.environ


def test_other_networks_of_the_pickle(write):
    path = write({"G_ema": nested({"a.b": torch.ones(2)}), "D": nested({"c": torch.zeros(3)}), "labels": None})
    assert list(load_nvidia(path, "D")) == ["c"]
    with pytest.raises(WeightsError, match="holds no network G"):
        load_nvidia(path, "G")
    with pytest.raises(WeightsError, match="holds no network labels"):
        load_nvidia(path, "labels")


class Harm:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("exit 1",)


def test_anything_else_is_refused(write):
    path = write({"G_ema": nested({"a": torch.ones(1)}), "more": Harm()})
    with pytest.raises(UnsafeWeightsError, match=r"network.pkl asks for posix.system"):
        load_published(path)


def test_damaged_pickle(write):
    path = write({"G_ema": nested({"a": torch.ones(1)})})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WeightsError, match="not a readable StyleGAN pickle"):
        load_published(path)
