"""One trainer for every system: mixed precision, EMA, exact resume, metrics and sample sheets.

A system brings a `Training` (its losses and optimiser steps); a recipe (YAML) names it, its data and its schedule.
Data sets are indexed by sample number, not by epoch: sample i is a function of (seed, i) alone. Together with a seed
per step this makes a resumed run see exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import abc
import functools
import importlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from ..deprecation import renamed_arguments, renamed_attribute, warn_renamed
from ..errors import MissingDependencyError, UsageError, WeightsError, nearest_name
from ..io.sources import noted
from ..nn.averaging import RunningMean
from ..processors import single_threaded
from ..systems.base import System, system_class
from .made_by import resumed, training_record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
Update = Callable[[str, Tensor], None]
R = TypeVar("R")


def signed(images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 pictures of a batch to (N, 3, S, S) in [−1, 1], channels last."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


class Training(abc.ABC):
    """The losses and optimiser steps of one system.

    `modules()` names every module that is trained or holds state by its attribute name on this object; `model` is
    always one of them, and the one whose EMA is validated and shipped. `optimisers()` names the optimisers with their
    base learning rates; the trainer scales these over time.
    """

    model: System

    @abc.abstractmethod
    def modules(self) -> dict[str, nn.Module]: ...

    @abc.abstractmethod
    def optimisers(self) -> dict[str, Optimizer]: ...

    @abc.abstractmethod
    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        """Compute losses and call `update(optimiser_name, loss)` once per optimiser step; returns scalars to log.

        `progress` runs from 0 to 1 over the whole training.
        """

    @abc.abstractmethod
    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Metrics of one validation batch (EMA weights, no gradients); the trainer averages over batches."""

    def sample(self, batch: Batch) -> NDArray[np.uint8] | None:
        """An (H, W, 3) RGB sheet that lets a person judge progress, or None."""
        return None


_OLD_CLASSES = {
    f"facewright.data.{module}:Turned{name}": f"facewright.data.large_pose:LargePose{name}"
    for module in ("turned", "large_pose")
    for name in ("Faces", "Scenes", "Crops")
}
"""Entries of recipes that were written for 0.1.0."""

_OLD_ENTRIES = {"batch": "batch_size", "clip": "max_grad_norm", "final_lr": "min_lr_ratio"}


def _explained(cls: type[R]) -> type[R]:
    """A pydantic dataclass whose constructor raises UsageError in our words."""
    validate = cls.__init__

    @functools.wraps(validate)
    def initialise(self: R, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            raise UsageError("; ".join(_mistake(cls, found) for found in error.errors())) from error

    cls.__init__ = initialise  # type: ignore[assignment, method-assign]
    return cls


def _mistake(cls: type, found: Mapping[str, Any]) -> str:
    """One error of pydantic as a phrase."""
    where = ".".join(map(str, found["loc"]))
    if found["type"] == "unexpected_keyword_argument":
        return f"unknown entry {where!r}{nearest_name(where, (f.name for f in fields(cls)))}"
    if found["type"] == "missing":
        return f"{where} is missing"
    return f"{where} {found['input']!r} is not possible: {found['msg'][0].lower()}{found['msg'][1:]}"


@renamed_arguments(**_OLD_ENTRIES)
@_explained
@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How a set of weights is made; read from YAML, stored beside the checkpoints. Mistakes are UsageErrors.

    `config` holds `preset` (a class method of the system's Config, e.g. `compact`) and overrides. `training` and `data`
    hold `entry` ("module:Class") and `options`; `validation` holds options that replace data options. `compiled`
    runs every module through torch.compile, which pays on a GPU after the minute or two that compiling takes.
    `accumulate` cuts every batch into so many pieces, whose gradients are averaged before a step, where a whole one
    does not fit into memory. Batch norms, and losses that compare the samples of a batch, see pieces.
    """

    system: str
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    training: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    validation_batches: Annotated[int, Field(ge=0)] = 8
    start_from: str = ""
    precision: Literal["fp32", "bf16"] = "bf16"
    warmup: Annotated[int, Field(ge=0)] = 200
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    seed: int = 0
    workers: Annotated[int, Field(ge=0)] = 1
    validate_every: Annotated[int, Field(ge=1)] = 500
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    compiled: bool = False
    accumulate: Annotated[int, Field(ge=1)] = 1

    batch = renamed_attribute("batch_size")
    clip = renamed_attribute("max_grad_norm")
    final_lr = renamed_attribute("min_lr_ratio")

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise UsageError(f"accumulate: {self.accumulate} pieces do not divide batches of {self.batch_size}")

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a YAML recipe; raises UsageError on unknown, missing and impossible entries."""
        try:
            import yaml
        except ImportError as error:
            raise MissingDependencyError("training needs PyYAML: pip install 'facewright[train]'") from error
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read recipe {path}: {error}") from error
        if not isinstance(data, dict):
            raise UsageError(f"recipe {path} is not a mapping of entries")
        try:
            return cls(**{str(name): value for name, value in data.items()})
        except UsageError as error:
            raise UsageError(f"recipe {path}: {error}") from error


def build_config(cls: type[System], config: Mapping[str, Any]) -> Any:
    """The configuration a recipe's `config` entry describes."""
    import dataclasses

    overrides = dict(config)
    preset = overrides.pop("preset", None)
    base = cls.preset(preset) if preset else cls.Config()
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    try:
        return dataclasses.replace(base, **values)
    except TypeError as error:
        raise UsageError(f"the recipe's config does not fit {cls.slug}: {error}") from error


def build_entry(part: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
    """Call the `entry` ("module:Class") of a recipe's part with its `options`; UsageError when that cannot be done."""
    given = str(part.get("entry", ""))
    if given in _OLD_CLASSES:
        warn_renamed(given, _OLD_CLASSES[given])
    module, _, name = _OLD_CLASSES.get(given, given).partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"the recipe's entry {part.get('entry')!r} is not a 'module:Class' ({error})") from error
    chosen = {**part.get("options", {}), **options}
    try:
        inspect.signature(cls).bind(*arguments, **chosen)
    except TypeError as error:
        raise UsageError(f"the recipe's options do not fit {name}: {error}") from error
    return cls(*arguments, **chosen)


class Ema(RunningMean):
    """The exponential moving average that is validated and shipped.

    The decay warms up from 2/11 to `decay`, so that early steps are not remembered.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, lambda count: min(decay, (1 + count) / (10 + count)))

    @property
    def shadow(self) -> dict[str, Tensor]:
        """The averages, by the names of the module's state dict."""
        return {k: v for k, v in self.module.state_dict().items() if v.is_floating_point()}

    def restore(self, shadow: Mapping[str, Tensor], updates: int) -> None:
        """Continue from averages of an earlier run."""
        self.module.load_state_dict(self.module.state_dict() | dict(shadow))
        self.n_averaged.fill_(updates + 1)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with averaged weights inside the block, its own afterwards."""
        live = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(live | self.shadow)
        try:
            yield
        finally:
            module.load_state_dict(live)


class _From(Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


class _Pieces:
    """A batch in pieces: holds the gradients of each update of a step until the last piece has added its own.

    Gradients are held apart, for an update clears those that the losses of other optimisers left on its parameters. An
    optimiser may be updated several times a step; every piece sees the weights that the step began with.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._last = True
        self._updates: dict[str, int] = {}
        self._held: dict[tuple[str, int], list[Tensor | None]] = {}

    def of(self, batch: Batch) -> Iterator[Batch]:
        """The pieces, in turn; UsageError where something of the batch is not cut by samples."""
        sizes = {key: len(value) if value.dim() else 0 for key, value in batch.items()}
        if self.count > 1 and len(set(sizes.values())) != 1:
            raise UsageError(f"batches with entries of {sizes} samples cannot be cut into pieces; leave out accumulate")
        for number in range(self.count):
            self._last, self._updates = number == self.count - 1, {}
            size = next(iter(sizes.values()), 0) // self.count
            yield batch if self.count == 1 else {k: v[number * size : (number + 1) * size] for k, v in batch.items()}
        self._held.clear()

    def complete(self, name: str, parameters: list[nn.Parameter]) -> bool:
        """Take the gradients of an update; at the last piece the parameters have the sum of all of them, and True."""
        if self.count == 1:
            return True
        key = (name, self._updates.get(name, 0))
        self._updates[name] = key[1] + 1
        held = self._held.get(key) or [None] * len(parameters)
        summed = [_sum(parameter.grad, old) for parameter, old in zip(parameters, held)]
        for parameter, gradient in zip(parameters, summed):
            parameter.grad = gradient if self._last else None  # another loss would add to what is held
        if not self._last:
            self._held[key] = summed
        return self._last


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _mean(logs: Sequence[Mapping[str, float | Tensor]]) -> Mapping[str, float | Tensor]:
    """What the pieces of a step log, averaged over those that log it."""
    if len(logs) == 1:
        return logs[0]
    values = {key: [float(log[key]) for log in logs if key in log] for log in logs for key in log}
    return {key: sum(found) / len(found) for key, found in values.items()}


class Trainer:
    """Runs a recipe in a folder: `checkpoint.pt` (last state), `metrics.csv`, `samples/`, `model/` (EMA weights)."""

    def __init__(self, recipe: Recipe, folder: str | Path) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
        except ImportError as error:
            raise MissingDependencyError("training needs accelerate: pip install 'facewright[train]'") from error
        cv2.setNumThreads(1)  # a pool of threads started here, by a data set being prepared, would hang forked workers
        self.recipe = recipe
        self.folder = Path(folder)
        precision = "no" if recipe.precision == "fp32" else recipe.precision
        # not every step uses every part (a head, a discriminator before its time)
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[unused])
        torch.manual_seed(recipe.seed)
        cls = system_class(recipe.system)
        with noted() as weights:
            start = cls.from_pretrained(recipe.start_from).train() if recipe.start_from else None
            model = start or cls(build_config(cls, recipe.config))
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.training: Training = build_entry(recipe.training, model)
        self.began_with = model.made_by
        with noted() as data:
            self._train_data = self.dataset("train")
        self.record = training_record(recipe, data, weights)
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        (self.folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
        self.bare = self.training.modules()
        self.wrapped: dict[str, nn.Module] = {}
        for name, module in self.bare.items():
            module.to(self.accelerator.device)
            if self.accelerator.num_processes > 1:
                self.wrapped[name] = self.accelerator.prepare(module)
        if recipe.compiled:
            for module in self.bare.values():
                module.compile()
        self.optimisers = self.training.optimisers()
        self.base_lr = {n: [g["lr"] for g in o.param_groups] for n, o in self.optimisers.items()}
        self.ema = Ema(self.bare["model"], recipe.ema)
        self.norms: dict[str, float] = {}
        self.step = 0
        self._pieces = _Pieces(recipe.accumulate)

    def dataset(self, split: str) -> Dataset[Batch]:
        """The recipe's data set for a split."""
        replaced = self.recipe.validation if split == "val" else {}
        dataset: Dataset[Batch] = build_entry(self.recipe.data, split=split, seed=self.recipe.seed, **replaced)
        return dataset

    def run(self, *, resume: bool = True, steps: int | None = None, log_every: int = 20) -> Path:
        """Train to the recipe's end (or `steps` more), validating and saving on the way; returns the model folder."""
        from .display import Display

        if resume and (self.folder / "checkpoint.pt").exists():
            self.load()
        last = self.recipe.steps if steps is None else min(self.recipe.steps, self.step + steps)
        with Display(self.recipe, self.folder, self.step, enabled=self.accelerator.is_main_process) as display:
            for batch in self._batches(last):
                logs = self.train_step(batch)
                if self.step % log_every == 0:
                    display.log(self.step, {k: float(v) for k, v in logs.items()} | self._norm_logs())
                if self.step % self.recipe.validate_every == 0 or self.step == last:
                    display.log(self.step, {f"val/{k}": v for k, v in self.validate().items()})
                if self.step % self.recipe.checkpoint_every == 0 or self.step == last:
                    self.save()
        if self.accelerator.is_main_process:
            self.export()
        self.accelerator.wait_for_everyone()
        return self.folder / "model"

    def train_step(self, batch: Batch) -> Mapping[str, float | Tensor]:
        """One step of the recipe on a batch; seeds torch from the step so that a resumed run draws the same noise."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        for module in self.bare.values():
            module.train()
        moved = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        progress = self.step / self.recipe.steps
        with self._in_parallel(), self.accelerator.autocast():
            logs = [self.training.step(piece, self._update, progress) for piece in self._pieces.of(moved)]
        self.step += 1
        return _mean(logs)

    @contextmanager
    def _in_parallel(self) -> Iterator[None]:
        """The training's modules wrapped for several processes inside the block, bare outside (validation, saving)."""
        for name, module in self.wrapped.items():
            setattr(self.training, name, module)
        try:
            yield
        finally:
            for name in self.wrapped:
                setattr(self.training, name, self.bare[name])

    def _update(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.accelerator.device.type, enabled=False):
            self.accelerator.backward(loss / self.recipe.accumulate if self.recipe.accumulate > 1 else loss)
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            if not self._pieces.complete(name, parameters):
                return
            self.norms[name] = float(nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm))
            if not np.isfinite(self.norms[name]):
                logger.warning("step %d: the gradient of %s is not finite; the step is skipped", self.step, name)
                return  # a step that overflowed would spoil the weights and the average for good
            factor = self.lr_factor()
            for group, base in zip(optimiser.param_groups, self.base_lr[name]):
                group["lr"] = base * factor
            optimiser.step()
        if name == "model":
            self.ema.update_parameters(self.bare["model"])

    def _norm_logs(self) -> dict[str, float]:
        return {f"gradient/{name}": norm for name, norm in self.norms.items()}

    def lr_factor(self) -> float:
        """Linear warm-up, then a cosine from 1 to the recipe's `min_lr_ratio`."""
        if self.step < self.recipe.warmup:
            return (self.step + 1) / self.recipe.warmup
        span = max(1, self.recipe.steps - self.recipe.warmup)
        cosine = 0.5 * (1 + np.cos(np.pi * (self.step - self.recipe.warmup) / span))
        return float(self.recipe.min_lr_ratio + (1 - self.recipe.min_lr_ratio) * cosine)

    def _batches(self, last: int) -> Iterator[Batch]:
        recipe, accelerator = self.recipe, self.accelerator
        dataset = self._train_data
        size = recipe.batch_size * accelerator.num_processes
        loader = DataLoader(
            dataset,
            batch_size=recipe.batch_size,
            sampler=_From(self.step * size, last * size),
            num_workers=recipe.workers,
            collate_fn=getattr(dataset, "collate", None),
            prefetch_factor=4 if recipe.workers else None,
            worker_init_fn=single_threaded,
        )
        yield from accelerator.prepare(loader) if accelerator.num_processes > 1 else loader

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Validation metrics of the EMA weights, and a sample sheet as PNG; nothing without batches to validate on."""
        if not self.recipe.validation_batches:
            return {}
        dataset = self.dataset("val")
        collate = getattr(dataset, "collate", torch.utils.data.default_collate)
        model = self.bare["model"]
        sums: dict[str, list[float]] = {}
        with self.ema.applied(model), self.accelerator.autocast():
            model.eval()
            for index in range(self.recipe.validation_batches):
                items = [dataset[index * self.recipe.batch_size + i] for i in range(self.recipe.batch_size)]
                batch = {k: v.to(self.accelerator.device) for k, v in collate(items).items()}
                for key, value in self.training.validate(batch).items():
                    sums.setdefault(key, []).append(value)
                if index == 0 and (sheet := self.training.sample(batch)) is not None:
                    path = self.folder / "samples" / f"{self.step:07d}.png"
                    cv2.imwrite(str(path), np.ascontiguousarray(sheet[..., ::-1]))
        return {key: float(np.nanmean(values)) for key, values in sums.items()}

    def save(self) -> None:
        """Write the whole training state atomically."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "modules": {n: m.state_dict() for n, m in self.bare.items()},
            "optimisers": {n: o.state_dict() for n, o in self.optimisers.items()},
            "ema": self.ema.shadow,
            "ema_updates": self.ema.updates,
            "code": self.record["code"],
        }
        temporary = self.folder / "checkpoint.pt.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "checkpoint.pt")
        self.export()

    def load(self) -> None:
        """Continue from `checkpoint.pt`; raises WeightsError when it is of another network."""
        path = self.folder / "checkpoint.pt"
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            for name, module in self.bare.items():
                module.load_state_dict(state["modules"][name])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise WeightsError(f"{path} is of another recipe; choose another folder or delete it ({error})") from error
        self.ema.restore(state["ema"], state["ema_updates"])
        self.step = state["step"]
        self.record = resumed(self.record, state.get("code", []), self.step)
        logger.info("resumed from %s at step %d", path, self.step)

    def export(self) -> Path:
        """Write the EMA weights as a pretrained folder."""
        model = self.bare["model"]
        assert isinstance(model, System)
        model.made_by = self.record | {"step": self.step}
        if self.began_with is not None:
            model.made_by["began_with"] = self.began_with
        with self.ema.applied(model):
            return model.save_pretrained(self.folder / "model")
