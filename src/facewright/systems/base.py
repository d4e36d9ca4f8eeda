"""What every system is: a torch module with a card, a frozen configuration and weights that carry their contract.

A system's module holds the paper's network, its losses and its key map for published checkpoints. It knows nothing of
files, paths or progress bars; loading and saving are here, once.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError
from ..nn.inference import AutocastCopy, InferenceForms, has_bf16
from ..nn.memory import WithoutMemory, page_out, trim
from ..tasks.card import Card, Preprocess, get_card, upgraded_record
from ..weights.store import load_file, resolve, save_file, sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..geometry.crop import CropSpec

logger = logging.getLogger(__name__)


CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

Precision = Literal["auto", "fp32", "bf16"]

_forms = InferenceForms()


class System(nn.Module):
    """Base of all published systems.

    A subclass sets `slug`, a frozen dataclass `Config` (its defaults are the paper's full size, `Config.compact()` is
    what ships) and `preprocess_for(config)`, and builds its network from the configuration alone.

    `precision`: arithmetic of the calls on pictures; `auto` takes bfloat16 where the processor has it. Calls that need
    all of float32 say so and ignore it.

    `mapped`: whether loaded weights stay in their file until they are read; for large networks whose calls on pictures
    all go through `inference`, so that nothing but its form of them is held in memory.
    """

    slug: ClassVar[str]
    former_slugs: ClassVar[tuple[str, ...]] = ()  # under which its weights were saved by earlier versions
    Config: ClassVar[type[Any]]
    mapped: ClassVar[bool] = False
    precision: Precision = "auto"
    weights_sha256: str | None = None  # of the file the weights came from
    _in_file: frozenset[int] = frozenset()  # addresses of weights as they were mapped
    made_by: dict[str, Any] | None = None  # how the weights were trained, see `training.made_by`

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = self.Config() if config is None else config

    @classmethod
    def card(cls) -> Card:
        """The card of this system."""
        return get_card(cls.slug)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """The input contract of a network of that configuration."""
        raise NotImplementedError(f"{cls.__name__} must declare its input")

    @classmethod
    def earlier_crop_for(cls, config: Any) -> CropSpec | None:
        """What files of earlier versions call the crop of `preprocess_for`, where it is not what they mean."""
        return None

    @property
    def preprocess(self) -> Preprocess:
        """The input contract of this network."""
        return self.preprocess_for(self.config)

    @property
    def device(self) -> torch.device:
        return self._any_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        return self._any_tensor().dtype

    def _any_tensor(self) -> Tensor:
        return next(chain(self.parameters(), self.buffers()))

    @property
    def picture_dtype(self) -> torch.dtype:
        """What calls on pictures compute in, by `precision` and the device: bfloat16 or float32."""
        low = self.precision == "bf16" or (self.precision == "auto" and has_bf16(self.device))
        return torch.bfloat16 if low else torch.float32

    def picture_autocast(self) -> torch.autocast:
        """A context in which the network itself computes in `picture_dtype`."""
        dtype = self.picture_dtype
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)

    def inference(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The network, or the part of it that pictures pass, in the form that runs fastest in `dtype`.

        `dtype` is `picture_dtype` if None. The form is a copy in evaluation mode, made once and again when the weights
        have changed; threads may ask at the same time. What pictures of other sizes left of memory is given back first.
        """
        trim()
        return _forms.get(self, dtype or self.picture_dtype, self._made_form)

    def _made_form(self, dtype: torch.dtype) -> nn.Module:
        logger.debug("%s: preparing inference in %s on %s", self.slug, dtype, self.device)
        return self._inference_form(dtype)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        """Make what `inference` returns: a copy that does not refer to this network."""
        return AutocastCopy(self, dtype)

    def _been_read(self, weight: Tensor) -> None:
        """Let the memory of a weight go that has been copied into a form and can be had from its file again."""
        if weight.data_ptr() in self._in_file:
            page_out(weight)

    def normalise(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB to the network's (N, 3, H, W) float input, by its preprocess record."""
        record = self.preprocess
        x = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
        x = x.to(self.device, torch.float32, copy=True).contiguous()
        if record.colour == "BGR":
            x = x.flip(3)
        x.div_(record.scale)
        for adjust, values in ((x.sub_, record.mean), (x.div_, record.std)):
            # one number for all channels takes a third of the time
            adjust(values[0] if len(set(values)) == 1 else torch.tensor(values, device=x.device))
        return x.permute(0, 3, 1, 2)

    @classmethod
    def preset(cls, name: str) -> Any:
        """The configuration of that name, such as "compact"; raises UsageError naming those there are."""
        known = [key for key, value in vars(cls.Config).items() if isinstance(value, classmethod)]
        if name not in known:
            raise UsageError(f"{cls.slug} has no preset {name!r}; choose from {', '.join(known)}")
        return getattr(cls.Config, name)()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A network with fresh weights from its configuration as plain data (what `config.json` holds)."""
        return cls(cls.config_from(config))

    @classmethod
    def config_from(cls, config: dict[str, Any]) -> Any:
        """A configuration from plain data; WeightsError for entries this version does not know."""
        known = {f.name for f in dataclasses.fields(cls.Config)}
        unknown = set(config) - known
        if unknown:
            raise WeightsError(
                f"configuration of {cls.slug} has unknown entries {sorted(unknown)}: written by another version?"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return cls.Config(**values)

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, commercial: bool = False, local_files_only: bool = False
    ) -> Self:
        """A network with trained weights, in evaluation mode.

        `source` is None for the default weights of the card, the name of one of its checkpoints, a folder written by
        `save_pretrained`, a `.safetensors` file, or a Hugging Face repository id. `commercial=True` refuses weights
        whose licence does not allow commercial use.
        """
        path = resolve(cls.card(), source, commercial=commercial, local_files_only=local_files_only)
        state, meta = load_file(path)
        if meta.get("slug", cls.slug) not in (cls.slug, *cls.former_slugs):
            raise WeightsError(f"{path} holds weights of {meta['slug']!r}, not of {cls.slug!r}")
        config = _read_config(path, meta)
        try:
            model = cls._bare(config["config"])
            stored = Preprocess.from_dict(upgraded_record(config["preprocess"], model.preprocess.crop))
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise WeightsError(f"{path}: its configuration is incomplete or damaged ({error!r})") from error
        if stored.crop == cls.earlier_crop_for(model.config):
            stored = dataclasses.replace(stored, crop=model.preprocess.crop)
        if stored != model.preprocess:
            raise WeightsError(
                f"{path} was trained for another input than {cls.slug} feeds (stored {stored}, code {model.preprocess})"
            )
        model._take(state, path)
        model.weights_sha256 = sha256(path)
        model.made_by = meta.get("made_by")
        return model.eval()

    @classmethod
    def _bare(cls, config: dict[str, Any]) -> Self:
        """A network about to be loaded; where weights stay in their file, without memory for them."""
        if not cls.mapped:
            return cls.from_config(config)
        with WithoutMemory():
            return cls.from_config(config)

    def _take(self, state: dict[str, Tensor], path: Path) -> None:
        """Load a state dict strictly; where weights stay in their file, they become the parameters themselves."""
        _check_fit(self, state, path)
        expected = self.state_dict()
        values = {k: v.to(expected[k].dtype) for k, v in state.items()}
        self.load_state_dict(values, assign=self.mapped)
        if self.mapped:
            self._in_file = frozenset(v.data_ptr() for k, v in values.items() if v is state[k])

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write `model.safetensors` and `config.json`; returns the folder. `dtype` stores floats in that type."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        meta = self.describe()
        save_file(self.state_dict(), target / WEIGHTS_FILE, meta, dtype=dtype)
        (target / CONFIG_FILE).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        return target

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; returns the address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    def describe(self) -> dict[str, Any]:
        """What is stored beside the weights: slug, configuration, input contract, and how they were trained."""
        stored = {
            "slug": self.slug,
            "config": dataclasses.asdict(self.config),
            "preprocess": dataclasses.asdict(self.preprocess),
        }
        return stored if self.made_by is None else stored | {"made_by": self.made_by}


def _read_config(path: Path, meta: dict[str, Any]) -> dict[str, Any]:
    if "config" in meta:
        return meta
    beside = path.with_name(CONFIG_FILE)
    if not beside.exists():
        raise WeightsError(f"{path} does not name its configuration, and there is no {CONFIG_FILE} beside it")
    try:
        config: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{beside} cannot be read ({error})") from error
    return config


def _check_fit(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    missing = sorted(set(expected) - set(state))
    surplus = sorted(set(state) - set(expected))
    wrong = sorted(k for k in set(state) & set(expected) if state[k].shape != expected[k].shape)
    if missing or surplus or wrong:
        raise WeightsError(
            f"{path} does not fit the network: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(surplus)} unknown {surplus[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )


def system_class(slug: str) -> type[System]:
    """The class of a registered system (imports its module, and torch)."""
    module, _, name = get_card(slug).entry.partition(":")
    cls = getattr(importlib.import_module(module), name)
    if not issubclass(cls, System):
        raise UsageError(f"{slug}: {name} is not a System")
    return cls  # type: ignore[no-any-return]


def refuse_seed(slug: str, seed: int | None) -> None:
    """Raise UsageError for a seed that a network without noise would ignore."""
    if seed is not None:
        raise UsageError(f"{slug} draws no noise, so a seed has no effect; omit it")


def batches(items: Sequence[Any] | NDArray[Any], size: int) -> list[Any]:
    """Split a sequence into runs of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]
