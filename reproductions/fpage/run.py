"""Whether parsing attention on the tanh-polar view beats the same network without it, and a plain crop.

    python -m reproductions.fpage.run [--quick]

Needs the labelled face collections (FACEWRIGHT_DATA) and a quarter of an hour on one processor core.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.data.ages import AgeCrops
from facewright.losses.segmentation import pixel_cross_entropy
from facewright.systems.age.fpage.network import FPAge, FPAgeConfig
from facewright.systems.age.fpage.training import FPAgeTraining, age_loss, pixels_of

from .. import common, traits
from ..parsing_arms import half

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SLUG = "fpage"
FPA, PLAIN, CROP = "attention, polar", "no attention, polar", "no attention, plain crop"
ARMS = (FPA, PLAIN, CROP)
TURNED = 20.0  # degrees of yaw; UTKFace has few faces that are turned further
MOVED = 0.15  # of the crop's side: how far faces lie from where the view expects them


@dataclass(frozen=True)
class Settings:
    """A parser learns `parsing_steps`, is frozen, and an age network on top of it learns `age_steps`."""

    size: int = 97
    crop: int = 144
    width: int = 64
    batch_size: int = 24
    parsing_steps: int = 250
    age_steps: int = 500
    lr: float = 2e-3
    test: int = 1000
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(size=65, crop=96, width=16, batch_size=8, parsing_steps=4, age_steps=8, test=40)


def config_of(arm: str, s: Settings) -> FPAgeConfig:
    base = FPAgeConfig.compact_polar()
    if arm == CROP:
        return dataclasses.replace(
            base, size=s.size - 1, crop=s.size - 1, polar=False, width=s.width, attention=False, blocks=2
        )
    return dataclasses.replace(base, size=s.size, crop=s.crop, width=s.width, attention=arm == FPA, blocks=2)


def items(data: AgeCrops, start: int, count: int) -> dict[str, torch.Tensor]:
    """A batch whose faces lie off the middle: `AgeCrops` varies them a little, this moves them on."""
    batch = torch.utils.data.default_collate([data[i] for i in range(start, start + count)])
    rng = np.random.default_rng((1, start))
    side = batch["image"].shape[1]
    for index in range(count):
        shift = tuple(int(v) for v in np.rint(rng.uniform(-MOVED, MOVED, 2) * side))
        for key in ("image", "labels"):
            batch[key][index] = torch.roll(batch[key][index], shift, (0, 1))
    return batch


def arm(s: Settings, name: str, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    config = config_of(name, s)
    model = common.channels_last(FPAge(config))
    training = FPAgeTraining(model)
    data = AgeCrops("train", seed, config=config)

    def parse(number: int) -> torch.Tensor:
        batch = items(data, number * s.batch_size, s.batch_size)
        with half():
            _, parsing = model(pixels_of(model, batch["image"]), return_aux=True)
        return pixel_cross_entropy(parsing, training.labels_in_view(batch["labels"], parsing))

    fit(f"{name}: parser", model, list(model.parser.parameters()), parse, s.parsing_steps, s.lr)
    model.parser.requires_grad_(False).eval()

    def age(number: int) -> torch.Tensor:
        batch = items(data, (s.parsing_steps + number) * s.batch_size, s.batch_size)
        model.parser.eval()
        with half():
            logits = model(pixels_of(model, batch["image"]))
        return age_loss(logits, batch["age"])

    fit(f"{name}: age", model, list(model.age_net.parameters()), age, s.age_steps, s.lr)
    off = errors(model, config, s, shuffled=False)
    result = {"errors": off.tolist(), "mae": float(np.abs(off).mean())}
    if name == FPA:
        result["shuffled"] = float(np.abs(errors(model, config, s, shuffled=True)).mean())
    return result


def fit(name: str, model: FPAge, weights: list[torch.nn.Parameter], loss_of: Any, steps: int, lr: float) -> None:
    model.train()
    optimiser = torch.optim.AdamW(weights, lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=0.1, cycle_momentum=False)
    for number in range(steps):
        loss = loss_of(number)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        schedule.step()
        if number % 50 == 0:
            print(f"    {name}, step {number} of {steps}: {float(loss.detach()):.3f}", flush=True)


@torch.inference_mode()
def errors(model: FPAge, config: FPAgeConfig, s: Settings, *, shuffled: bool) -> Floats:
    """Years off (N,) on the test photos, whose faces lie off the middle; `shuffled` mixes up the parser's classes."""
    model.eval()
    data = AgeCrops("val", config=config, augment=False)
    order = torch.randperm(len(model.classes), generator=torch.Generator().manual_seed(0))
    found = []
    count = min(s.test, len(data.rows)) // s.batch_size
    for number in range(count):
        batch = items(data, number * s.batch_size, s.batch_size)
        views = pixels_of(model, batch["image"])
        if config.polar:
            from facewright.nn.sampling import sample

            views = sample(views, model.grid(views, config.size), align_corners=True)
        with half():
            low, high, parsing = model.parser(views)
            logits = model.age_net(low, high, parsing[:, order] if shuffled else parsing)
        found.append((model.expected(logits) - batch["age"]).double().numpy())
    return np.concatenate(found)


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    arms = common.Arms(common.arms_file(args, SLUG), s, len(ARMS) * len(s.seeds))
    runs = {name: [arms.run(f"{name}, seed {seed}", arm, s, name, seed) for seed in s.seeds] for name in ARMS}
    common.finish(args, SLUG, report(s, runs))


def report(s: Settings, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    count = len(runs[FPA][0]["errors"])
    data = AgeCrops("val", config=config_of(FPA, s), augment=False)
    rows = data.rows[:count]
    column = data.collection.labels
    people = np.asarray(column["subject"])[rows]
    turned = np.abs(np.asarray(column["pose_yaw_pitch_roll_deg"])[rows][:, 0]) >= TURNED
    off = {name: np.abs(np.array([run["errors"] for run in results])).mean(0) for name, results in runs.items()}

    def ratio(rival: str, chosen: NDArray[np.bool_]) -> tuple[float, float, float]:
        mine, other = off[FPA][chosen], off[rival][chosen]
        return traits.by_person(people[chosen], lambda i: float(mine[i].mean() / other[i].mean()))

    everything = np.ones(count, bool)
    table = [
        [name, *(f"{off[name][chosen].mean():.2f}" for chosen in (everything, turned)),
         *("" if name == FPA else traits.text(ratio(name, chosen), 2, 1.0) for chosen in (everything, turned))]
        for name in ARMS
    ]  # fmt: skip
    shuffled = float(np.mean([run["shuffled"] for run in runs[FPA]]) / np.mean([run["mae"] for run in runs[FPA]]))
    asked = [
        ("attention against none, all", ratio(PLAIN, everything), 0.95),
        ("attention against a plain crop, all", ratio(CROP, everything), 0.92),
        (f"attention against none, turned by {TURNED:g}° and more", ratio(PLAIN, turned), 0.92),
        (f"attention against a plain crop, turned by {TURNED:g}° and more", ratio(CROP, turned), 0.92),
    ]
    return [
        "# FP-Age: parsing attention and the tanh-polar view",
        "",
        "Made by `python -m reproductions.fpage.run`.",
        "",
        f"{count} photos of UTKFace of unseen people, {int(turned.sum())} turned by {TURNED:g}° and more; every face",
        f"lies up to {100 * MOVED:.0f} % of the crop's side away from where the view expects it. The parser began",
        f"as the embedded one and learned {s.parsing_steps} steps on its kind of view, then was frozen; the age",
        f"network on top learned {s.age_steps} steps of {s.batch_size}. {len(s.seeds)}",
        f"seed{'s' * (len(s.seeds) != 1)}.",
        "",
        "Mean absolute error in years, and the error with attention as a share of it, with the range of 95 % of the",
        "resamples by person:",
        "",
        *common.table(["", "all", "turned", "share, all", "share, turned"], table),
        "",
        f"With the parser's classes mixed up at test, the error with attention is {shuffled:.2f} times as large.",
        "",
        *(
            common.verdict(f"{name}: at most {most:g} of the error", share[2] <= most, traits.text(share, 2, 1.0))
            for name, share, most in asked
        ),
        common.verdict("mixing up the classes costs 20 % and more", shuffled >= 1.2, f"{shuffled:.2f}"),
    ]


if __name__ == "__main__":
    main()
