"""Published checkpoints to facewright's own files: opened safely, keys mapped, checked against the network, saved once.

A system that has published checkpoints offers a function `import_published(state)` in its module, which returns the
network with the checkpoint's weights in it.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

from ..errors import OutputError, UsageError, WeightsError
from .card import cards, get_card
from .store import load_published


def import_checkpoint(slug: str, checkpoint: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Convert a published checkpoint of a system into a folder `from_pretrained` reads; returns the folder.

    Raises UsageError when no published checkpoints of that system can be read, WeightsError when the file does not fit,
    UnsafeWeightsError when it holds code, OutputError when the folder exists.
    """
    card = get_card(slug)
    module = importlib.import_module(card.entry.partition(":")[0])
    convert = getattr(module, "import_published", None)
    if convert is None:
        able = [c.slug for c in cards().values() if c.published]
        raise UsageError(f"{slug} has no published checkpoints to import; these have: {', '.join(able) or 'none'}")
    target = Path(output)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; choose another folder or add --overwrite")
    state = load_published(checkpoint)
    try:
        model = convert(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{checkpoint} is no checkpoint of {slug}: {str(error).splitlines()[0]}") from error
    temporary = target.with_name(f".{target.name}.tmp")
    model.save_pretrained(temporary)
    if target.exists():
        shutil.rmtree(target)
    temporary.replace(target)
    return target
