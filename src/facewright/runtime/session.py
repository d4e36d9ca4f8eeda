"""A session owns loaded networks: each is in memory once, whoever asks for it and however it is named."""

from __future__ import annotations

import logging
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..tasks.card import cards, get_card
from ..tasks.declare import NOUNS, NetworkChoice, Task, entry, tasks

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ..systems.base import System

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16")
EMBEDDED_CLEANER = "scenedetail"  # what "clean" stands for


class Session:
    """Loaded networks by slug, weights, device and precision; safe to share between threads.

    `fw.*` functions use one session of the process; make another to let go of networks apart from it.
    """

    def __init__(self) -> None:
        self._networks: dict[tuple[Any, ...], System] = {}
        self._lock = threading.RLock()

    def network(self, slug: str, weights: str | Path | None = None, device: str = "auto", dtype: str = "auto") -> Any:
        """A system in evaluation mode, loaded at most once.

        Args:
            slug: Slug or alias of the system.
            weights: File, folder or name of its weights; None for its default ones.
            device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
            dtype: Arithmetic of its inference: "auto" takes bfloat16 where the processor has it, "fp32", "bf16".

        Raises:
            UsageError: Unknown slug, device or precision.
            WeightsError: There are no such weights, or they are damaged.
        """
        import torch

        from ..loading import create
        from ..weights.store import resolve

        if dtype not in PRECISIONS:
            raise UsageError(f"dtype {dtype!r} is not possible; choose auto, fp32 or bf16")
        where = resolve_device(device)
        card = get_card(slug)
        path = resolve(card, weights)
        stat = path.stat()
        key = (card.slug, str(path.resolve()), stat.st_size, stat.st_mtime_ns, str(where), dtype)
        with self._lock:
            if key not in self._networks:
                model: Any = create(card.slug, pretrained=path).to(where)
                if hasattr(model, "precision"):
                    model.precision = dtype
                if where.type == "cpu" and not model.mapped:
                    model.to(memory_format=torch.channels_last)
                logger.info("loaded %s from %s on %s, dtype %s", card.slug, path, where, dtype)
                self._networks[key] = model
            return self._networks[key]

    def chosen(self, task: Task, choice: NetworkChoice) -> Any:
        """The system of a task that a choice names."""
        card = task.card(choice.model)
        return self.network(card.slug, choice.weights, choice.device, choice.dtype)

    def of_task(self, task: str, name: str, device: str = "auto") -> Any:
        """A system by its slug, with its default weights; UsageError where it is not one of that task."""
        card = get_card(name)
        if task not in card.tasks:
            known = ", ".join(c.slug for c in cards().values() if task in c.tasks)
            raise UsageError(f"{card.slug} is no {NOUNS[task]}; choose one of {known}")
        return self.network(card.slug, None, device)

    def component(self, verb: str, name: str, device: str = "auto") -> Any:
        """A network beside a task's own: the named system of another task, or that task's default for ""."""
        task = tasks()[verb]
        return self.network(task.card(name).slug, None, device)

    def detector(self, choice: NetworkChoice) -> Any:
        """A detector that tries all quarter turns when it has to, with a second opinion on what it finds."""
        from ..pipelines.finding import finder_of

        return finder_of(self, self.component("detect", choice.detector, choice.device), choice.device)

    def parser(self, choice: NetworkChoice) -> Any:
        return self.component("analyse", choice.parser, choice.device)

    def recogniser(self, choice: NetworkChoice) -> Any:
        return self.component("embed", choice.recogniser, choice.device)

    def background(self, choice: NetworkChoice) -> Any:
        """The enlarger of what is not a face, "clean" for the embedded one; None where none is chosen."""
        if not choice.background:
            return None
        card = get_card(EMBEDDED_CLEANER if choice.background == "clean" else choice.background)
        if "enlarge" not in card.tasks:
            known = ", ".join(c.slug for c in cards().values() if "enlarge" in c.tasks)
            raise UsageError(f"{card.slug} cannot restore a background; choose one of {known}")
        return self.network(card.slug, None, choice.device)

    def pipeline(self, verb: str | Task, choice: NetworkChoice | None = None) -> Any:
        """The callable of a task, or of that of a verb, with its networks; see `Task.load`."""
        task = tasks()[verb] if isinstance(verb, str) else verb
        return entry(task.load)(self, task, choice or NetworkChoice())

    def __len__(self) -> int:
        """How many networks are loaded."""
        return len(self._networks)


@cache
def default_session() -> Session:
    """The session of this process."""
    return Session()


def resolve_device(name: str) -> torch.device:
    """The device a user names; UsageError for one that is not there or not supported."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; choose auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {name!r} here; use --device cpu")
    return device
