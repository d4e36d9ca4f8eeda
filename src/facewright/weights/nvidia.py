"""The tensors of NVIDIA's StyleGAN pickles (NVlabs/stylegan2-ada-pytorch), without running the code they carry.

Such a file holds whole modules together with their source, which its own loader executes. Here the pickle is read by an
unpickler that knows tensors and plain containers only; every module becomes a record of its tensors, and its source
stays text.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsafeWeightsError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE_MARK = b"torch_utils.persistence"
_HEAD = 1 << 16


def is_nvidia_pickle(path: Path) -> bool:
    """Whether a file is a pickle whose first object is a module saved with its source."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    return head[:1] == b"\x80" and MODULE_MARK in head


def load_nvidia(path: Path, entry: str = "G_ema") -> dict[str, Tensor]:
    """The tensors of one network of the pickle by their published names: `G_ema`, `G` or `D`.

    Raises UnsafeWeightsError when the file asks for anything but tensors and modules, WeightsError when it is damaged
    or has no such network.
    """
    try:
        with open(path, "rb") as stream:
            content = _TensorsOnly(stream).load()
    except WeightsError as error:
        raise type(error)(f"{path} {error}") from error
    except Exception as error:  # damaged pickles fail in every way there is
        raise WeightsError(f"{path} is not a readable StyleGAN pickle ({error!r})") from error
    network = content.get(entry) if isinstance(content, dict) else None
    if not isinstance(network, _Module):
        raise WeightsError(f"{path} holds no network {entry}")
    return dict(network.tensors())


class _Module:
    """What is kept of a pickled module: its own state, in which other modules may lie."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.state = dict(meta["state"])

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for group in ("_parameters", "_buffers"):
            for name, value in self.state.get(group, {}).items():
                if isinstance(value, Tensor):
                    yield prefix + name, value.detach()
        for name, child in self.state.get("_modules", {}).items():
            if isinstance(child, _Module):
                yield from child.tensors(f"{prefix}{name}.")


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Module,
    ("dnnlib.util", "EasyDict"): dict,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "device"): torch.device,
    ("torch", "float32"): torch.float32,
    ("torch", "float16"): torch.float16,
}


class _TensorsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafeWeightsError(f"asks for {module}.{name} and was not opened further") from None
