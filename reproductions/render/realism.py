"""Are renders real enough to train on? The same landmarker learns from photos, from renders, and from both.

    python -m reproductions.render.realism             # writes docs/results/realism.md; about twenty minutes
    python -m reproductions.render.realism --quick     # a minute, prints only

Needs the labelled face collections (FACEWRIGHT_DATA); about a thousand faces are rendered on first use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from facewright.data.landmarks import LandmarkCrops
from facewright.systems.landmarks.facewarp.network import FaceWarp, FaceWarpConfig
from facewright.systems.landmarks.facewarp.training import INNER, LandmarkTraining, distances
from facewright.training.trainer import signed

from .. import common
from ..common import Arms

SLUG = "realism"
FEW, ALL = "few photos", "all photos"
RENDERS, FEW_BOTH, ALL_BOTH = "renders", "few photos and renders", "all photos and renders"
ARMS = {FEW: (True, 0.0), FEW_BOTH: (True, 0.5), RENDERS: (False, 1.0), ALL: (False, 0.0), ALL_BOTH: (False, 0.5)}
"""Whether photos are few, and the share of renders."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Settings:
    size: int = 64
    few: int = 150  # of each collection
    steps: int = 350
    batch_size: int = 32
    lr: float = 2e-3
    warmup: int = 30
    tested: int = 600
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=12, tested=64, seeds=(0,))


def crops(few: bool, renders: float, seed: int, s: Settings) -> LandmarkCrops:
    """Training crops, of the first photos of each collection where they are `few`."""
    data = LandmarkCrops("train", seed, size=s.size, renders=renders, styled=0.0)
    if few:
        data.real.collections = [replace(c, rows=c.rows[: s.few]) for c in data.real.collections]
    return data


def batch_of(data: LandmarkCrops, start: int, count: int) -> dict[str, torch.Tensor]:
    items = [data[start + i] for i in range(count)]
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def arm(name: str, seed: int, s: Settings, test: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Train on one kind of pictures, judge on photos of other people: inner points' errors in percent, face by face."""
    torch.manual_seed(seed)
    model = FaceWarp(replace(FaceWarpConfig.compact(), size=s.size)).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = LandmarkTraining(model, lr=s.lr, weight_decay=0.01)
    optimiser = training.optimisers()["model"]
    data = crops(*ARMS[name], seed, s)
    for step in range(s.steps):
        share = min(1.0, (step + 1) / s.warmup) * 0.5 * (1 + np.cos(np.pi * step / s.steps))
        for group in optimiser.param_groups:
            group["lr"] = s.lr * max(0.01, share)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = training.supervised(batch_of(data, step * s.batch_size, s.batch_size))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        if (step + 1) % 50 == 0:
            print(f"    {name}: {step + 1}/{s.steps}, loss {float(loss.detach()):.3f}", flush=True)
    errors = judged(model.eval(), test, s)
    return {"error": float(errors.mean()), "faces": [round(float(v), 3) for v in errors]}


@torch.inference_mode()
def judged(model: FaceWarp, test: dict[str, torch.Tensor], s: Settings) -> np.ndarray:
    errors = []
    for images, points, length in zip(*(test[key].split(64) for key in ("image", "points", "length"))):
        found = model(signed(images))
        errors.append(100 * distances(found.last, points / s.size, length / s.size)[:, INNER].mean(1))
    return torch.cat(errors).double().numpy()


def ratio(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean error of the second kind over that of the first, with its 95 % bootstrap interval over faces."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(first), (RESAMPLES, len(first)))
    low, high = np.percentile(second[picks].mean(1) / first[picks].mean(1), (2.5, 97.5))
    return float(second.mean() / first.mean()), float(low), float(high)


def report(s: Settings, results: dict[str, np.ndarray]) -> list[str]:
    gain_few, gain_all = ratio(results[FEW], results[FEW_BOTH]), ratio(results[ALL], results[ALL_BOTH])
    alone = ratio(results[ALL], results[RENDERS])

    def shown(value: tuple[float, float, float]) -> str:
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"

    rows = [[name, f"{results[name].mean():.2f}"] for name in ARMS]
    return [
        f"{s.steps} steps of {s.batch_size} crops of {s.size} px, seeds {', '.join(map(str, s.seeds))};",
        f"*few* photos are {2 * s.few},",
        "all are about 22,000, renders 800. Error of the 51 inner points on photos of people not trained on, in",
        "percent of the outer eye distance. The photos' labels, in training and test alike, come from another network.",
        "",
        *common.table(["trained on", "error"], rows),
        "",
        common.verdict(
            "renders added to all photos lower the error by 10 % or more", gain_all[2] <= 0.9, shown(gain_all)
        ),
        common.verdict(
            "renders added to few photos lower the error by 10 % or more", gain_few[2] <= 0.9, shown(gain_few)
        ),
        common.verdict("renders alone come within 1.5 times the error of all photos", alone[2] <= 1.5, shown(alone)),
        "",
        "Numbers in brackets are error ratios with 95 % intervals over faces; a claim holds when the interval does.",
        "Masks are not compared, for the photos have none.",
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    test = batch_of(LandmarkCrops("val", 7, size=s.size, renders=0.0, styled=0.0, augment=False), 0, s.tested)
    arms = Arms(common.arms_file(args, SLUG), s, len(ARMS) * len(s.seeds))
    results = {
        name: np.mean([arms.run(f"{name}, seed {k}", arm, name, k, s, test)["faces"] for k in s.seeds], 0)
        for name in ARMS
    }
    lines = [
        "# Training on renders",
        "",
        "```",
        "python -m reproductions.render.realism",
        "```",
        "",
        *report(s, results),
    ]
    common.finish(args, SLUG, lines)


if __name__ == "__main__":
    main()
