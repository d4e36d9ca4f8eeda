"""Published checkpoints to facewright's own files: opened safely, keys mapped, checked against the network, saved once.

A system that has published checkpoints offers a function `import_published(state)` in its module, which returns the
network with the checkpoint's weights in it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError, UsageError, WeightsError
from .card import cards, get_card
from .store import load_published

if TYPE_CHECKING:
    from types import ModuleType

    from .card import Card


def import_checkpoint(slug: str, checkpoint: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Convert a published checkpoint of a system into a folder `from_pretrained` reads; returns the folder.

    Raises UsageError when no published checkpoints of that system can be read, WeightsError when the file does not fit,
    UnsafeWeightsError when it holds code, OutputError when the folder exists.
    """
    card = get_card(slug)
    convert = getattr(_module(card), "import_published", None)
    if convert is None:
        able = [c.slug for c in cards().values() if hasattr(_module(c), "import_published")]
        raise UsageError(f"{slug} has no published checkpoints to import; these have: {', '.join(able) or 'none'}")
    target = Path(output)
    _check_folder(target, overwrite=overwrite)
    module = _module(card)
    try:
        if Path(checkpoint).suffix.lower() == ".onnx" and hasattr(module, "import_onnx"):
            model = module.import_onnx(checkpoint)
        else:
            model = convert(load_published(checkpoint))
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{checkpoint} is no checkpoint of {slug}: {error!r}") from error
    if model.slug != slug:
        raise WeightsError(f"{checkpoint} is a checkpoint of {model.slug}, not of {slug}")
    folder: Path = model.save_pretrained(target)
    return folder


def _module(card: Card) -> ModuleType:
    return importlib.import_module(card.entry.partition(":")[0])


def _check_folder(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; give a folder")
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise OutputError(f"{target} exists; choose another folder or add --overwrite")
