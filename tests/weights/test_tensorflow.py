"""NVIDIA's TensorFlow pickles: their arrays become the generator that they were, their code is not run."""

from __future__ import annotations

import os
import pickle
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from facewright.errors import UnsafeWeightsError, WeightsError
from facewright.nn import stylegan2 as s2
from facewright.systems.synthesise.stylegan2 import convert
from facewright.weights.store import load_published
from facewright.weights.tensorflow import is_tensorflow_pickle, load_tensorflow

if TYPE_CHECKING:
    from pathlib import Path

CODE = "import os\nos.environ['FACEWRIGHT_TEST_CODE_RAN'] = '1'\n"


class Network:
    """Pickles as `dnnlib.tflib.network.Network` does."""

    def __init__(self, variables: dict[str, Any] | None = None, **components: Any) -> None:
        self.state = {
            "version": 4, "name": "G", "static_kwargs": {"resolution": 16}, "components": components,
            "build_module_src": CODE, "build_func_name": "G_main", "variables": list((variables or {}).items()),
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.state


Network.__module__ = "dnnlib.tflib.network"


def written(content: Any) -> bytes:
    """The pickle, made while NVIDIA's modules seem to be there."""
    module = ModuleType("dnnlib.tflib.network")
    module.Network = Network  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dnnlib", "dnnlib.tflib"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, "dnnlib.tflib.network", module)
        return pickle.dumps(content, protocol=4)


def variables(net: s2.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mapping and synthesis of a generator as TensorFlow holds them: channels last, kernels of enlarging layers turned,
    styles that add to one."""
    mapping, synthesis = {"lod": np.zeros(())}, {}
    for key, tensor in s2.to_nvidia(net.state_dict()).items():
        value = tensor.numpy()
        first, *place, leaf = key.split(".")
        if first == "mapping":
            mapping[f"Dense{place[0].removeprefix('fc')}/{leaf}"] = value.T
            continue
        side = int(place[0].removeprefix("b"))
        if leaf == "const":
            synthesis["4x4/Const/const"] = value[None]
            continue
        late = {"conv0": "Conv0_up", "conv1": "Conv" if side == 4 else "Conv1", "torgb": "ToRGB"}
        layer = f"{side}x{side}/{late[place[1]]}"
        number = 2 * side.bit_length() - (7 if place[1] == "conv0" else 6)
        if leaf == "noise_const":
            synthesis[f"noise{number}"] = value[None, None]
        elif place[-1] == "affine":
            synthesis[f"{layer}/mod_{leaf}"] = value.T if leaf == "weight" else value - 1
        elif leaf == "weight":
            kernel = value[:, :, ::-1, ::-1] if place[1] == "conv0" else value
            synthesis[f"{layer}/weight"] = kernel.transpose(2, 3, 1, 0)
        else:
            synthesis[f"{layer}/{leaf}"] = value
    return mapping, synthesis


@pytest.fixture
def generator() -> s2.Generator:
    torch.manual_seed(0)
    return s2.Generator(16, style_dim=8, widths=(12, 10, 8), mapping_layers=2)


@torch.no_grad()
def test_generator_of_a_pickle_gives_its_pictures(
    generator: s2.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACEWRIGHT_TEST_CODE_RAN", raising=False)
    mapping, synthesis = variables(generator)
    average = Network({"dlatent_avg": np.zeros(8)}, mapping=Network(mapping), synthesis=Network(synthesis))
    path = tmp_path / "network.pkl"
    path.write_bytes(written((Network(), Network(), average)))
    assert is_tensorflow_pickle(path)
    found = load_published(path)
    assert found.keys() == s2.to_nvidia(generator.state_dict()).keys()
    model = convert.import_published(found)
    z = torch.randn(2, 8)
    torch.testing.assert_close(model(z), generator(generator.mapping(z)))
    assert "FACEWRIGHT_TEST_CODE_RAN" not in os.environ


@pytest.mark.parametrize("content", [(), (Network(),), {"a": Network()}, (Network(), 3)])
def test_file_without_a_generator(content: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(written(content))
    with pytest.raises(WeightsError, match="holds no generator of a StyleGAN2"):
        load_tensorflow(tmp_path / "a.pkl")


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(written((Network(), Harm())))
    with pytest.raises(UnsafeWeightsError, match=r"a\.pkl asks for posix\.system and was not opened further"):
        load_published(tmp_path / "a.pkl")


def test_damaged_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(written((Network(),))[:-9])
    with pytest.raises(WeightsError, match="not a readable StyleGAN2 pickle"):
        load_published(tmp_path / "a.pkl")
