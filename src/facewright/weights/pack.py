"""Turn a finished training into embedded weights: half-precision safetensors and an entry in the system's card.

    python -m facewright.weights.pack runs/frgp-compact/model frgp compact --recipe recipes/frgp-compact.yaml \
        --trained-on LFW --trained-on UTKFace
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..systems.base import system_class
from ..tasks.card import card_path, upgraded_record
from .store import load_file, save_file, sha256

if TYPE_CHECKING:
    from ..systems.base import System

RESEARCH_ONLY = "research use only: trained on photos collected for research"


def pack(
    model: Path, slug: str, name: str, *, recipe: str, trained_on: list[str], licence: str = RESEARCH_ONLY
) -> Path:
    """Write `<name>.safetensors` (bfloat16) beside the card and put it first in the card's checkpoints.

    What was measured of earlier weights does not count for these: measure them (`weights.measure`).
    """
    path = card_path(slug)
    state, meta = load_file(model / "model.safetensors")
    system = system_class(slug)
    config = system.config_from(meta["config"])
    crop = system.preprocess_for(config).crop
    meta["preprocess"] = upgraded_record(meta["preprocess"], crop)
    target = path.with_name(f"{name}.safetensors")
    save_file(state, target, meta, dtype=torch.bfloat16)
    entry: dict[str, Any] = {
        "name": name,
        "licence": licence,
        "commercial": False,
        "training_data": trained_on,
        "preprocess": meta["preprocess"],
        "config": meta["config"],
        "file": target.relative_to(path.parents[3]).as_posix(),
        "sha256": sha256(target),
        "size_bytes": target.stat().st_size,
        "parameters": parameters(system, config),
        "recipe": recipe,
    }
    card = json.loads(path.read_text(encoding="utf-8"))
    others = [c for c in card.get("checkpoints", []) if c["name"] != name]
    card["checkpoints"] = [entry, *others]
    write_card(path, card)
    return target


def parameters(system: type[System], config: Any) -> int:
    """How many numbers a network of that configuration learns; buffers do not count, unless it is a forest."""
    network = system(config)
    return sum(p.numel() for p in network.parameters()) or sum(b.numel() for b in network.buffers())


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Write a card as JSON."""
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed trained weights in the package.")
    parser.add_argument("model", type=Path)
    parser.add_argument("slug")
    parser.add_argument("name")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--trained-on", action="append", required=True)
    options = parser.parse_args()
    path = pack(options.model, options.slug, options.name, recipe=options.recipe, trained_on=options.trained_on)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
