"""Whether bending real faces after stylised ones teaches a landmarker the stylised faces, and turns do it best.

    python -m reproductions.facewarp.run [--quick]

Needs the labelled face collections (FACEWRIGHT_DATA) and half an hour on two processor cores.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.data.landmarks import WarpPairs
from facewright.systems.landmarks.facewarp.network import FaceWarp, FaceWarpConfig
from facewright.systems.landmarks.facewarp.training import FaceWarpTraining, LandmarkTraining

from .. import common
from ..common import Arms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from facewright.data.split import Split
    from facewright.training.trainer import Batch, Update

SLUG = "facewarp"
TITLE = "FaceWarp: stylised faces without labels"
SOURCE, SELF, JOINT, TURNS = "real faces alone", "self-training", "joint", "turns"
CUT = "turns, gradient cut as published"
METHODS = (SOURCE, SELF, JOINT, TURNS, CUT)


@dataclass(frozen=True)
class Settings:
    """`real` labelled and as many stylised faces; `before` steps on real faces, then `steps` of a method."""

    size: int = 64
    real: int = 3000
    judged: int = 500
    batch_size: int = 32
    before: int = 800
    steps: int = 250
    turn: int = 50
    lr: float = 1e-3
    after_lr: float = 5e-4
    warper_lr: float = 1e-4
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(real=300, judged=60, before=60, steps=20, turn=5, seeds=(0,))


class SelfTraining(FaceWarpTraining):
    """Stored pseudo labels without the warper: its turns are passed over."""

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        while self.turns.is_warpers():
            self.turns.advance(self.model)
        return super().step(batch, update, progress)


def load_pairs(split: Split, count: int, size: int, *, augment: bool) -> Batch:
    """All pairs of a split in memory, pictures (N, S, S, 3)."""
    print(f"preparing {count} pairs of the split {split}", flush=True)
    pairs = WarpPairs(split, seed=1, size=size, augment=augment)
    items = [pairs[i] for i in range(count)]
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def training_of(method: str, model: FaceWarp, s: Settings) -> LandmarkTraining:
    if method == SOURCE:
        return LandmarkTraining(model, lr=s.after_lr)
    options = {"lr": s.after_lr, "warper_lr": s.warper_lr, "turn": s.turn}
    if method == SELF:
        return SelfTraining(model, **options)  # type: ignore[arg-type]
    return FaceWarpTraining(model, joint=method == JOINT, published_code=method == CUT, **options)  # type: ignore[arg-type]


def optimise(name: str, training: LandmarkTraining, data: Batch, s: Settings, steps: int, seed: int) -> None:
    """Train until the landmarker made `steps` steps; the warper's come on top.

    Batches are the same for all methods. Rates warm up and fall to nothing over the landmarker's steps.
    """
    optimisers = training.optimisers()
    base = {key: o.param_groups[0]["lr"] for key, o in optimisers.items()}
    order = common.Epochs(len(data["image"]), s.batch_size, seed)
    weights = [p for p in training.model.parameters() if p.requires_grad]
    done = {"model": 0, "warper": 0}

    def update(key: str, loss: Tensor) -> None:
        progress = done["model"] / steps
        optimisers[key].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, common.MAX_GRAD_NORM)
        for group in optimisers[key].param_groups:
            group["lr"] = base[key] * min(1.0, (done[key] + 1) / 40) * 0.5 * (1 + np.cos(np.pi * progress))
        optimisers[key].step()
        done[key] += 1

    training.model.train()
    number = 0
    while done["model"] < steps:
        chosen = torch.from_numpy(order.batch(number))
        training.step({key: values[chosen] for key, values in data.items()}, update, number)
        number += 1
        if number % 100 == 0:
            print(f"    {name}: {done['model']}/{steps}", flush=True)


def pretrained(data: Batch, s: Settings, seed: int) -> FaceWarp:
    """A small landmarker that saw real faces alone."""
    torch.manual_seed(seed)
    config = FaceWarpConfig(s.size, "depthwise", 48, 4, 2, 96, 0.0, half_boxes=(1 / 10, 1 / 20))
    model = common.channels_last(FaceWarp(config))
    optimise("real faces", LandmarkTraining(model, lr=s.lr), data, s, s.before, seed)
    return model


@torch.inference_mode()
def judge(model: nn.Module, data: Batch, s: Settings) -> dict[str, float]:
    """NME in percent of the distance of the outer eye corners, of real and of stylised faces."""
    model.eval()
    scores = {}
    for name, images, points in (("real", "image", "points"), ("stylised", "styled", "styled_points")):
        errors = []
        for start in range(0, len(data[images]), s.batch_size):
            part = slice(start, start + s.batch_size)
            found = model(common.signed(data[images][part].numpy())).last * s.size
            truth = data[points][part]
            eyes = (truth[:, 36] - truth[:, 45]).norm(dim=-1)
            errors.append((found - truth).norm(dim=-1).mean(1) / eyes)
        scores[name] = 100 * float(torch.cat(errors).mean())
    return scores


def adapted(start: FaceWarp, train: Batch, test: Batch, s: Settings, method: str, seed: int) -> dict[str, Any]:
    model = copy.deepcopy(start)
    optimise(method, training_of(method, model, s), train, s, s.steps, seed + 10)
    return judge(model, test, s)


def report(s: Settings, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    mean = {m: {k: float(np.mean([r[k] for r in runs[m]])) for k in ("real", "stylised")} for m in METHODS}
    rows = [[m, *(common.mean_std([r[k] for r in runs[m]], 1.0, 2) for k in ("real", "stylised"))] for m in METHODS]
    ratio = mean[TURNS]["stylised"] / mean[SOURCE]["stylised"]
    to_self = mean[TURNS]["stylised"] / mean[SELF]["stylised"]
    kept = mean[TURNS]["real"] / mean[SOURCE]["real"]
    to_joint = mean[TURNS]["stylised"] / mean[JOINT]["stylised"]
    return [
        f"NME (%, outer eye corners) of {s.judged} people who were not trained on, {s.size} px crops, "
        f"{len(s.seeds)} seed{'s' * (len(s.seeds) != 1)}.",
        "",
        *common.table(["trained with", "real", "stylised and exaggerated"], rows),
        "",
        common.verdict("stylised: at most 0.90 of real faces alone", ratio <= 0.90, f"{ratio:.2f}"),
        common.verdict("stylised: at most 0.97 of self-training", to_self <= 0.97, f"{to_self:.2f}"),
        common.verdict("stylised: turns are better than the joint loss", to_joint < 1, f"{to_joint:.2f}"),
        common.verdict("real: at most 1.03 of real faces alone", kept <= 1.03, f"{kept:.2f}"),
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    train = load_pairs("train", s.real, s.size, augment=True)
    test = load_pairs("val", s.judged, s.size, augment=False)
    arms = Arms(common.arms_file(args, SLUG), s, len(METHODS) * len(s.seeds))
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for seed in s.seeds:
        names = {method: f"{method}, seed {seed}" for method in METHODS}
        start = None if all(name in arms.done for name in names.values()) else pretrained(train, s, seed)
        for method, name in names.items():
            runs[method].append(arms.run(name, adapted, start, train, test, s, method, seed))
    lines = [
        f"# {TITLE}",
        "",
        "```",
        "python -m reproductions.facewarp.run       # the labelled collections are found through FACEWRIGHT_DATA",
        "```",
        "",
        *report(s, runs),
    ]
    common.finish(args, SLUG, lines)


if __name__ == "__main__":
    main()
