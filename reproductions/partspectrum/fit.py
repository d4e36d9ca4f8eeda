"""Fit the readouts of the embedded PartSpectrum; a minute on one core once the fixed features are there.

    python -m facewright.data.people embed SETS -o FOUND
    python -m facewright.data.forgeries SETS FOUND -o FOLDER
    python -m facewright.data.forgery_crops FOLDER -o FOLDER/fixed --count 5000
    python -m facewright.data.forgery_crops FOLDER -o FOLDER/morphs --count 2400 --morphs
    python -m reproductions.partspectrum.fit FOLDER/fixed FOLDER/morphs -o runs/partspectrum

Edits are told from real pictures of their own set alone: with other sets a readout learns to tell the sets, and what is
forged at home looks different from what people do by hand and helps little. Penalties were chosen by two-fold
cross-validation on the training pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.data.forgery_crops import ORIGINS, REAL_SETS, FixedCrops
from facewright.systems.base import system_class
from facewright.systems.forgery.partspectrum.network import (
    KINDS,
    PARTS,
    WINDOWS,
    PartSpectrum,
    PartSpectrumConfig,
    describe,
)
from facewright.systems.forgery.partspectrum.training import adopt_parser, fit_readout, set_scale, store

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTY = {"manipulated": 1.0, "generated": 0.1, "morphed": 0.1, "parts": 1.0}
_SOME = 250


def descriptions(folder: str, crops: FixedCrops, config: PartSpectrumConfig) -> NDArray[np.float32]:
    """(N, D) of all crops of a file; kept beside it."""
    known = Path(folder) / "described.npy"
    if known.exists():
        return np.asarray(np.load(known), np.float32)
    rows = []
    for start in range(0, len(crops.kinds), _SOME):
        part = [torch.from_numpy(each[start : start + _SOME].astype(np.float32)) for each in (crops.near, crops.far)]
        rows.append(describe(part, config).numpy())
    found = np.concatenate(rows)
    np.save(known, found)
    return found


def edited_parts(masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N, 4) which parts were changed, from masks (N, 32, 32): more than half of the part's middle."""
    found = []
    for name in PARTS:
        top, bottom, left, right = WINDOWS[name]
        found.append(masks[:, top + 1 : bottom - 1, left + 1 : right - 1].mean((1, 2)) > 0.4 * 255)
    return np.stack(found, 1)


def fitted(fixed: str, portraits: str, config: PartSpectrumConfig) -> PartSpectrum:
    """A network with all readouts, from two folders of fixed features."""
    forgeries, morphs = FixedCrops(fixed), FixedCrops(portraits)
    model = PartSpectrum(config)
    parser: Any = system_class("segface").from_pretrained()
    adopt_parser(model, parser.net.backbone)
    seen = descriptions(fixed, forgeries, config)
    set_scale(model, seen)
    scaled = (seen - model.centre.numpy()) / model.scale.numpy()
    origin = np.array(ORIGINS)[forgeries.origins]
    real = np.isin(origin, list(REAL_SETS))
    by_hand = np.isin(origin, ["ciplab", "edited"])
    made = real | (origin == "generated")
    tasks = {"manipulated": (by_hand, origin == "edited"), "generated": (made, origin == "generated")}
    for kind, (some, label) in tasks.items():
        store(model.kinds, KINDS.index(kind), *fit_readout(scaled[some], label[some], penalty=PENALTY[kind]))
    parts = edited_parts(np.asarray(forgeries.masks))
    for number in range(len(PARTS)):
        label = (origin == "edited") & parts[:, number]
        store(model.parts, number, *fit_readout(scaled[by_hand], label[by_hand], penalty=PENALTY["parts"]))
    blended = (descriptions(portraits, morphs, config) - model.centre.numpy()) / model.scale.numpy()
    readout = fit_readout(blended, np.asarray(morphs.kinds) > 0, penalty=PENALTY["morphed"])
    store(model.kinds, KINDS.index("morphed"), *readout)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("fixed", help="fixed features of real, edited and generated crops")
    parser.add_argument("morphs", help="fixed features of bona fide portraits and morphs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = fitted(chosen.fixed, chosen.morphs, PartSpectrumConfig.compact())
    model.save_pretrained(chosen.output)
    print(f"{chosen.output}: {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
