"""The tensors of a TorchScript archive, without running the program in it.

Such a file (OpenAI's CLIP, FaRL's parsers) is a zip archive with code and a pickle of the modules' attributes. Here the
pickle is read by an unpickler that knows tensors and plain containers only; every object becomes a record of its
attributes, and the code is not looked at.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsafeWeightsError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive with a TorchScript program."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def load_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers by their names in the module tree.

    Raises UnsafeWeightsError when the pickle asks for anything but tensors and modules, WeightsError when the archive
    is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            reader = _TensorsOnly(io.BytesIO(archive.read(pickled)), archive, pickled.removesuffix(".pkl"))
            root = reader.load()
            return dict(_tensors(root))
    except WeightsError as error:
        raise type(error)(f"{path} {error}") from error
    except Exception as error:  # damaged archives fail in every way there is
        raise WeightsError(f"{path} is not a readable TorchScript archive ({error!r})") from error


class _Object:
    """What is kept of a pickled module: its attributes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


def _tensors(thing: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in thing.attributes.items() if isinstance(thing, _Object) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value.detach()
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _same(value: Any, *_: Any) -> Any:
    return value


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _same,
    **{("torch.jit._pickle", f"build_{kind}list"): _same for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): _same,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _TensorsOnly(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Object
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafeWeightsError(f"asks for {module}.{name} and was not opened further") from None

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, _ = pid
        data = bytearray(self.archive.read(f"{self.folder}/{key}"))
        values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage: Any = torch.storage.TypedStorage  # untyped in torch
        return storage(wrap_storage=values.untyped_storage(), dtype=dtype, _internal=True)
