"""What the component dictionaries of DFDNet are worth: the same decoder without them, with one atom, and with many.

    python reproductions/dfdnet/run.py --steps 700 --record local/dfdnet.json

Needs the labelled face collections (FACEWRIGHT_DATA) and the embedded compact SFace, whose frozen features the
dictionaries are made of. Dictionaries and decoders see the training split alone; scores are of people never seen.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from facewright import create
from facewright.data.restoration import RestorationPairs, open_crops
from facewright.losses.reconstruction import charbonnier
from facewright.metrics import psnr
from facewright.metrics.uncertainty import bootstrap
from facewright.systems.restore.dfdnet import (
    REDUCTIONS,
    DFDNet,
    DFDNetConfig,
    batched,
    build_dictionaries,
    upright_boxes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SIZE = 128
SHAPE = DFDNetConfig(size=SIZE, features="sface", width=16, atoms=0, part_sizes=(20, 20, 13, 28))
BATCH = 8
FEATURE_WEIGHT = 0.1


class WithoutTransfer(DFDNet):
    """The same network with its components left as they are."""

    def _transfer(self, features: Tensor, level: int, boxes: NDArray[np.int64]) -> tuple[Tensor, list[Tensor]]:
        return features, []


class RandomAtom(DFDNet):
    """The same network with an atom drawn at random in place of the best one."""

    def _transfer(self, features: Tensor, level: int, boxes: NDArray[np.int64]) -> tuple[Tensor, list[Tensor]]:
        kept = dict(self.dictionary.named_buffers())
        for name, atoms in kept.items():
            self.dictionary.register_buffer(name, atoms[torch.randint(len(atoms), (1,))])
        try:
            return super()._transfer(features, level, boxes)
        finally:
            for name, atoms in kept.items():
                self.dictionary.register_buffer(name, atoms)


def new_network(kind: type[DFDNet], features: dict[str, Tensor], dictionaries: dict[str, Tensor]) -> DFDNet:
    """A network of that kind from the same seed as all others."""
    torch.manual_seed(0)
    network = kind(replace(SHAPE))
    network.extractor.network.load_state_dict(features)
    network.load_dictionaries(dictionaries)
    return network


def training_faces(count: int) -> Iterator[NDArray[np.uint8]]:
    """Clean crops of the training split for the dictionaries."""
    cache = open_crops("lfw", "train", SIZE)
    for index in np.unique(np.linspace(0, len(cache.rows) - 1, count).astype(int)):
        yield np.array(cache.crop(int(index))[0])


def pairs(split: str, seed: int, count: int) -> Iterator[dict[str, Tensor]]:
    """Batches of degraded and true crops, (N, 3, S, S) in [−1, 1], with their validity masks."""
    data = RestorationPairs(split, seed, size=SIZE, collections={"lfw": 1.0}, presets={"dfdnet@scaled": 1.0})
    for start in range(0, count, BATCH):
        items = [data[i] for i in range(start, min(start + BATCH, count))]
        batch = {key: torch.stack([item[key] for item in items]) for key in ("lq", "hq", "mask")}
        yield {k: v.permute(0, 3, 1, 2) / 127.5 - 1 if k != "mask" else v.float() for k, v in batch.items()}


def train(network: DFDNet, steps: int) -> None:
    """Masked Charbonnier loss and the distance of the frozen features, as the paper's reconstruction loss."""
    network.train()
    wanted = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(wanted, 2e-4, betas=(0.5, 0.999))
    for batch in pairs("train", 1, steps * BATCH):
        restored = network(batch["lq"])
        with torch.no_grad():
            true = network.extractor(batch["hq"])
        gaps = [(a - b).square().mean() for a, b in zip(network.extractor(restored), true)]
        loss = charbonnier(restored, batch["hq"], batch["mask"]) + FEATURE_WEIGHT * sum(gaps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


def score(network: DFDNet, faces: int) -> dict[str, list[float]]:
    """Per face: distance of the features inside the components, and PSNR in dB inside them and of the whole crop."""
    boxes = upright_boxes(SIZE)
    inside = np.zeros((SIZE, SIZE), bool)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    found: dict[str, list[float]] = {"features": [], "psnr_components": [], "psnr": []}
    for batch in pairs("val", 2, faces):
        with torch.inference_mode():
            restored = network(batch["lq"])
            maps = [network.extractor(x) for x in (restored, batch["hq"])]
        for n in range(len(restored)):
            gaps = [_gap(a[n], b[n], boxes // r) for a, b, r in zip(*maps, REDUCTIONS)]
            found["features"].append(float(np.mean(gaps)))
            a, b, mask = restored[n], batch["hq"][n], batch["mask"][n, 0].numpy() > 0
            found["psnr"].append(psnr(a, b, data_range=2, mask=mask))
            found["psnr_components"].append(psnr(a, b, data_range=2, mask=mask & inside))
    return found


def _gap(a: Tensor, b: Tensor, boxes: NDArray[np.int64]) -> float:
    """Mean squared difference inside the boxes, relative to the true features' energy there."""
    regions = [(slice(None), slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))) for x0, y0, x1, y1 in boxes]
    return float(np.mean([float((a[r] - b[r]).square().mean() / b[r].square().mean()) for r in regions]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what DFDNet's dictionaries are worth.")
    parser.add_argument("--steps", type=int, default=700, help="training steps of every arm, batches of 8")
    parser.add_argument("--dictionary-faces", type=int, default=2000)
    parser.add_argument("--atoms", type=int, nargs="+", default=[8, 32], help="sizes of the dictionaries besides 1")
    parser.add_argument("--faces", type=int, default=200, help="validation pairs")
    parser.add_argument("--record", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    start = time.perf_counter()
    features = create("sface", pretrained=True).backbone.state_dict()  # type: ignore[union-attr]
    seed = DFDNet(SHAPE).eval()
    seed.extractor.network.load_state_dict(features)
    clean = list(training_faces(options.dictionary_faces))
    sets = {k: build_dictionaries(seed, batched(clean), k) for k in (1, *options.atoms)}
    arms: dict[str, tuple[type[DFDNet], int]] = {"no transfer": (WithoutTransfer, 1), "1 atom": (DFDNet, 1)}
    arms |= {f"{k} atoms": (DFDNet, k) for k in options.atoms}
    arms["random atom"] = (RandomAtom, options.atoms[-1])
    numbers: dict[str, Any] = {}
    print("| arm | features in components | PSNR in components | PSNR |\n| --- | --- | --- | --- |")
    for name, (kind, atoms) in arms.items():
        network = new_network(kind, features, sets[atoms])
        train(network, options.steps)
        numbers[name] = score(network, options.faces)
        shown = {key: bootstrap(values) for key, values in numbers[name].items()}
        cells = [
            f"{shown[k].mean:.4g} [{shown[k].low:.4g}, {shown[k].high:.4g}]"
            for k in ("features", "psnr_components", "psnr")
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes")
    if options.record:
        options.record.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
