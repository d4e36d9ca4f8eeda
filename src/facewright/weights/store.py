"""Where weights come from: the package, a folder, a file, or the Hugging Face hub; always hash-checked, never pickled.

Embedded weights are single safetensors files whose header holds slug, configuration and input contract. Published
checkpoints in PyTorch's pickle format are opened with `weights_only=True` only and converted once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LicenceError, UnsafeWeightsError, WeightsError
from ..io.atomic import atomic_output
from ..io.sources import note

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..tasks.card import Card, Checkpoint, PublishedFile

logger = logging.getLogger(__name__)

META_KEY = "facewright"


def sha256(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def embedded_path(checkpoint: Checkpoint) -> Path:
    """Path of weights that come with the package, beside the card of their system."""
    return Path(str(resources.files("facewright") / checkpoint.file))


def cache_dir() -> Path:
    """Folder for downloaded, converted and bundled weights: `$FACEWRIGHT_HOME`, else `~/.cache/facewright`."""
    import os

    root = os.environ.get("FACEWRIGHT_HOME")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "facewright"


def resolve(card: Card, source: str | Path | None, *, commercial: bool = False, local_files_only: bool = False) -> Path:
    """The safetensors file `source` means for a system; see `System.from_pretrained`."""
    from . import catalogue

    checkpoint = _named(card, source)
    if checkpoint is None:
        file = _published(card, source)
        if file is not None:
            folder = catalogue.obtain(card, file, commercial=commercial, local_files_only=local_files_only)
            return weights_in(folder)
        if source is None:
            raise WeightsError(
                f"{card.slug} has no weights of its own yet, and none that are fetched by themselves; train it, or "
                "import or give your own (its page under docs/models says how)"
            )
        if commercial:
            raise LicenceError(
                f"{source}: the licence of weights outside the registry is unknown, so commercial use is refused"
            )
        return _foreign(card, str(source), local_files_only)
    if commercial and not checkpoint.commercial:
        raise LicenceError(
            f"weights {checkpoint.name!r} of {card.slug} may not be used commercially ({checkpoint.licence})"
        )
    return fetch(checkpoint, local_files_only=local_files_only)


def _named(card: Card, source: str | Path | None) -> Checkpoint | None:
    if source is None:
        return card.default_checkpoint
    return next((c for c in card.checkpoints if c.name == str(source)), None)


def _published(card: Card, source: str | Path | None) -> PublishedFile | None:
    """The published file that is meant: the default one of a system without weights, or one by its name."""
    from . import catalogue

    if source is None:
        return catalogue.default_file(card)
    return None if Path(source).exists() else catalogue.find_file(card, str(source))


def weights_in(folder: Path) -> Path:
    """The file with the weights in a folder written by `save_pretrained`."""
    graph = folder / "model.onnx"
    return graph if graph.is_file() else folder / "model.safetensors"


def fetch(checkpoint: Checkpoint, *, local_files_only: bool = False) -> Path:
    """The local file of a checkpoint, downloaded if need be; its hash is checked once per file state."""
    if checkpoint.file:
        path = embedded_path(checkpoint)
        if not path.exists():
            raise WeightsError(f"{path} is missing: the installation is incomplete, reinstall facewright")
    else:
        bundled = cache_dir() / "bundle" / checkpoint.sha256
        path = bundled if bundled.exists() else _download(checkpoint, local_files_only)
    try:
        verify(path, checkpoint.sha256)
    except WeightsError:
        if not checkpoint.file:
            logger.warning("%s has another SHA-256 than its card says; removing it", path)
            path.resolve().unlink()  # the next attempt fetches it anew
        raise
    return path


_verified: set[tuple[str, int, int]] = set()


def verify(path: Path, expected: str) -> None:
    """Raise WeightsError unless the file has the expected SHA-256 (remembered per path, size and time)."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key in _verified or not expected:
        return
    found = sha256(path)
    if found != expected:
        raise WeightsError(f"{path} is damaged or was replaced: SHA-256 {found[:12]}… instead of {expected[:12]}…")
    _verified.add(key)


def _download(checkpoint: Checkpoint, local_files_only: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    where = f"{checkpoint.repo_id}/{checkpoint.filename}"
    try:
        return Path(
            hf_hub_download(
                checkpoint.repo_id,
                checkpoint.filename,
                revision=checkpoint.revision or None,
                cache_dir=cache_dir() / "hub",
                local_files_only=local_files_only,
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(
            f"cannot fetch {where}: {_first_line(error)}; "
            "without a network, install a bundle made by 'facewright bundle'"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _foreign(card: Card, source: str, local_files_only: bool) -> Path:
    from . import catalogue
    from .published import can_import, is_onnx

    path = Path(source).expanduser()
    if path.is_dir():
        path = weights_in(path)
    if path.is_file():
        ready = path.name == "model.onnx" or not (_is_pickle(path) or is_onnx(path))
        return path if ready or not can_import(card) else weights_in(catalogue.adopt(card, path)[0])
    is_file_name = path.suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx")
    looks_like_repo = source.count("/") == 1 and not is_file_name and not source.startswith((".", "/", "~"))
    if not looks_like_repo:
        raise WeightsError(f"no weights at {source}: not a file, a folder, a known name, or a hub repository")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            source,
            cache_dir=cache_dir() / "hub",
            allow_patterns=["model.safetensors", "config.json"],
            local_files_only=local_files_only,
        )
    except Exception as error:
        raise WeightsError(f"cannot fetch {source} from the hub: {_first_line(error)}") from error
    return Path(folder) / "model.safetensors"


def load_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facewright's header of a safetensors file; raises WeightsError when it is not one."""
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"no weights file at {file}")
    note(file)
    try:
        if _is_pickle(file):
            raise WeightsError(f"{file} is a PyTorch checkpoint; convert it first: facewright import MODEL {file}")
        with safe_open(str(file), framework="pt") as archive:
            state = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            header = json.loads((archive.metadata() or {}).get(META_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} is not a readable safetensors file ({error}); fetch it again") from error
    return state, header


def save_file(
    state: Mapping[str, Tensor], path: str | Path, meta: Mapping[str, Any], *, dtype: torch.dtype | None = None
) -> Path:
    """Write tensors and a JSON header atomically; floating tensors are stored as `dtype` when given."""
    from safetensors.torch import save

    tensors = {
        key: (value.to(dtype) if dtype is not None and value.is_floating_point() else value).detach().contiguous().cpu()
        for key, value in state.items()
    }
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_bytes(save(tensors, {META_KEY: json.dumps(dict(meta), sort_keys=True)}))
    return Path(path)


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as stream:
        start = stream.read(9)
    if start[4:] == b"\0\0\0\0{":  # a safetensors length, whose first bytes may be any
        return False
    return start[:2] == b"PK" or (len(start) > 1 and start[0] == 0x80)


def load_published(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint: safetensors, or a pickle that holds nothing but tensors.

    Wrappers are unpacked (`params_ema`, `params`, `g_ema`, `state_dict` and the like) and a leading `module.` stripped.
    A pickle that would run code is refused with UnsafeWeightsError and never executed. Of NVIDIA's StyleGAN pickles,
    which carry their source, the tensors of the averaged generator are taken and the source is left alone; so is the
    program of TorchScript archives.
    """
    import torch

    from .nvidia import is_nvidia_pickle, load_nvidia
    from .tensorflow import is_tensorflow_pickle, load_tensorflow
    from .torchscript import is_torchscript, load_torchscript

    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"no checkpoint at {file}")
    note(file)
    if not _is_pickle(file):
        return load_file(file)[0]
    if is_nvidia_pickle(file):
        return load_nvidia(file)
    if is_tensorflow_pickle(file):
        return load_tensorflow(file)
    if is_torchscript(file):
        return load_torchscript(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _first_line(error)
        raise UnsafeWeightsError(
            f"{file} holds more than tensors and was not opened ({reason}); look for a safetensors file of it, or, "
            "where you trust its author, save the state_dict() of what is in it with their program and import that"
        ) from error
    except Exception as error:  # damaged pickles fail in every way there is
        raise WeightsError(f"{file} is not a readable checkpoint ({_first_line(error)})") from error
    return _tensors(content, file)


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    import torch

    for wrapper in (
        "params_ema",
        "params",
        "g_ema",
        "state_dict",
        "state_dict_backbone",
        "model_state_dict",
        "model_state",
        "warpA2B",
    ):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} does not hold a state dict")
    tensors = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{file} does not hold any tensors")
    return tensors
