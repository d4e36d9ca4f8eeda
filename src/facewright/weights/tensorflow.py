"""The tensors of NVIDIA's first StyleGAN2 pickles (NVlabs/stylegan2), which TensorFlow wrote, without TensorFlow.

Such a file holds networks together with the source that builds them, which its own loader executes. Here the pickle is
read by an unpickler that knows arrays and plain containers only, and the generator's variables get the names that the
later files of NVIDIA (`nvidia`) have for them.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UnsafeWeightsError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

MARK = b"dnnlib.tflib.network"
_HEAD = 1 << 12


def is_tensorflow_pickle(path: Path) -> bool:
    """Whether a file is a pickle whose first objects are networks of NVIDIA's TensorFlow code."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    return head[:1] == b"\x80" and MARK in head


def load_tensorflow(path: Path) -> dict[str, Tensor]:
    """The averaged generator (`Gs`, the last network of the file) by the names of NVIDIA's later files.

    Raises UnsafeWeightsError when the file asks for anything but arrays and networks, WeightsError when it is damaged
    or its last network is no StyleGAN2.
    """
    try:
        with open(path, "rb") as stream:
            content = _ArraysOnly(stream).load()
    except WeightsError as error:
        raise type(error)(f"{path} {error}") from error
    except Exception as error:  # damaged pickles fail in every way there is
        raise WeightsError(f"{path} is not a readable StyleGAN2 pickle ({error!r})") from error
    networks = content if isinstance(content, tuple | list) else (content,)
    if (
        not networks
        or not isinstance(networks[-1], _Network)
        or not {"synthesis", "mapping"} <= set(networks[-1].parts)
    ):
        raise WeightsError(f"{path} holds no generator of a StyleGAN2")
    parts = networks[-1].parts
    renamed = [_mapping(*pair) for pair in parts["mapping"].variables.items()]
    renamed += [_synthesis(*pair) for pair in parts["synthesis"].variables.items()]
    return {key: torch.from_numpy(np.array(value, np.float32)) for key, value in filter(None, renamed)}


class _Network:
    """What is kept of a pickled network: its own variables, and the networks it is made of."""

    variables: dict[str, np.ndarray]
    parts: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.variables = dict(state["variables"])
        self.parts = dict(state.get("components", {}))


def _array(_: Any, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    return np.ndarray(shape, kind.decode() if isinstance(kind, bytes) else kind)


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("dnnlib.tflib.network", "Network"): _Network,
    ("dnnlib.util", "EasyDict"): dict,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafeWeightsError(f"asks for {module}.{name} and was not opened further") from None


# --- names


def _kernel(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1)


def _turned_kernel(value: np.ndarray) -> np.ndarray:
    """Of convolutions that enlarge: TensorFlow's are correlations with the kernel turned by 180°."""
    return _kernel(value[::-1, ::-1])


def _same(value: np.ndarray) -> np.ndarray:
    return value


_OF_LAYER: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "weight": ("weight", _kernel),
    "bias": ("bias", _same),
    "noise_strength": ("noise_strength", _same),
    "mod_weight": ("affine.weight", np.transpose),
    "mod_bias": ("affine.bias", lambda value: value + 1),
}
_LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}


def _mapping(name: str, value: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The later name and form of a variable of the mapping network; None for counters of training."""
    match = re.fullmatch(r"Dense(\d+)/(weight|bias)", name)
    return (f"mapping.fc{match[1]}.{match[2]}", value.T) if match else None


def _synthesis(name: str, value: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The same of the synthesis network."""
    if name == "4x4/Const/const":
        return "synthesis.b4.const", value[0]
    if match := re.fullmatch(r"noise(\d+)", name):
        number = int(match[1])
        side, part = 4 << (number + 1) // 2, "conv1" if number % 2 == 0 else "conv0"
        return f"synthesis.b{side}.{part}.noise_const", value[0, 0]
    match = re.fullmatch(r"(\d+)x\1/(\w+)/(\w+)", name)
    if match is None or match[2] not in _LAYERS or match[3] not in _OF_LAYER:
        return None
    theirs, change = _OF_LAYER[match[3]]
    if match[2] == "Conv0_up" and match[3] == "weight":
        change = _turned_kernel
    return f"synthesis.b{match[1]}.{_LAYERS[match[2]]}.{theirs}", change(value)
