"""Whether parsing attention beats the same network without it where it ships: on the recogniser's first stages.

    python -m reproductions.fpage.attention [--quick]

Both networks learn from the kept maps of the embedded weights' recipe, which are made on first use. Needs the labelled
face collections (FACEWRIGHT_DATA) and some minutes on one processor core.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from facewright.systems.age.fpage.network import FPAge, FPAgeConfig, RecogniserParser
from facewright.systems.age.fpage.training import FPAgeTraining
from facewright.training.trainer import Recipe, build_entry

from .. import common, traits
from ..parsing_arms import half

if TYPE_CHECKING:
    from facewright.data.ages import AgeMaps
    from facewright.data.split import Split

SLUG = "fpage-attention"
RECIPE = "recipes/fpage-compact.yaml"
FPA, PLAIN = "attention", "no attention"
TURNED = 20.0  # degrees of yaw; UTKFace has few faces that are turned further


@dataclass(frozen=True)
class Settings:
    """How long both networks learn."""

    steps: int = 400
    batch_size: int = 48
    lr: float = 1.5e-3
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=4, batch_size=8)


def maps(split: Split) -> AgeMaps:
    """The kept maps of the recipe."""
    recipe = Recipe.load(RECIPE)
    replaced = recipe.validation if split == "val" else {}
    return cast("AgeMaps", build_entry(recipe.data, split=split, seed=recipe.seed, **replaced))


def arm(s: Settings, name: str, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = common.channels_last(FPAge(dataclasses.replace(FPAgeConfig.compact(), attention=name == FPA)))
    training, data = FPAgeTraining(model, lr=s.lr, weight_decay=2e-2, parsing_weight=0.3), maps("train")
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = training.optimisers()["model"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.lr, s.steps, pct_start=0.1, cycle_momentum=False)

    def update(_: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        schedule.step()

    model.train()
    first = seed * s.steps * s.batch_size
    for number in range(s.steps):
        start = first + number * s.batch_size
        batch = torch.utils.data.default_collate([data[i] for i in range(start, start + s.batch_size)])
        with half():
            logs = training.step(batch, update, number / s.steps)
        if number % 50 == 0:
            print(f"    {name}, step {number} of {s.steps}: {float(logs['mae']):.2f} years", flush=True)
    result: dict[str, Any] = {"errors": errors(model, shuffled=False)}
    if name == FPA:
        result["shuffled"] = float(np.abs(errors(model, shuffled=True)).mean())
    return result | {"mae": float(np.abs(result["errors"]).mean())}


@torch.inference_mode()
def errors(model: FPAge, *, shuffled: bool) -> list[float]:
    """Years off on the validation photos; `shuffled` mixes up the parser's classes."""
    model.eval()
    data, parser = maps("val"), cast("RecogniserParser", model.parser)
    order = torch.randperm(len(model.classes), generator=torch.Generator().manual_seed(0))
    found: list[float] = []
    for batch in traits.batches_of(data, data.photos, 64):
        low, high, parsing = parser.read(batch["maps"])
        logits = model.age_net(low, high, parsing[:, order] if shuffled else parsing)
        found += (model.expected(logits) - batch["age"]).tolist()
    return found


def report(s: Settings, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    crops = maps("val").crops
    column = crops.collection.labels
    people = np.asarray(column["subject"])[crops.rows]
    turned = np.abs(np.asarray(column["pose_yaw_pitch_roll_deg"])[crops.rows][:, 0]) >= TURNED
    everything = np.ones(len(people), bool)
    off = {name: np.abs(np.array([run["errors"] for run in results])).mean(0) for name, results in runs.items()}

    def ratio(chosen: traits.Flags) -> tuple[float, float, float]:
        mine, other = off[FPA][chosen], off[PLAIN][chosen]
        return traits.by_person(people[chosen], lambda i: float(mine[i].mean() / other[i].mean()))

    shares = {"all": ratio(everything), f"turned by {TURNED:g}° and more": ratio(turned)}
    rows = [[name, *(f"{off[name][chosen].mean():.2f}" for chosen in (everything, turned))] for name in (FPA, PLAIN)]
    shuffled = float(np.mean([run["shuffled"] for run in runs[FPA]]) / off[FPA].mean())
    limits = dict(zip(shares, (0.95, 0.92)))
    return [
        "# FP-Age: parsing attention on the recogniser's first stages",
        "",
        "Made by `python -m reproductions.fpage.attention`.",
        "",
        f"{len(people)} photos of UTKFace of unseen people, {int(turned.sum())} turned by {TURNED:g}° and more. Both",
        "networks are the compact FP-Age, with its parsing attention or with the parser's features and classes side by",
        f"side as the paper's network without it; {s.steps} steps of {s.batch_size}, {len(s.seeds)}"
        f" seed{'s' * (len(s.seeds) != 1)}.",
        "Faces are aligned, and few are turned or covered: the claim is about faces in the wild.",
        "",
        "Mean absolute error in years:",
        "",
        *common.table(["", *shares], rows),
        "",
        f"With the parser's classes mixed up at test, the error with attention is {shuffled:.2f} times as large.",
        "",
        *(
            common.verdict(
                f"attention against none, {name}: at most {limits[name]:g} of the error",
                share[2] <= limits[name],
                traits.text(share, 2, 1.0),
            )
            for name, share in shares.items()
        ),
        common.verdict("mixing up the classes costs 20 % and more", shuffled >= 1.2, f"{shuffled:.2f}"),
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    arms = common.Arms(common.arms_file(args, SLUG), s, 2 * len(s.seeds))
    runs = {name: [arms.run(f"{name}, seed {seed}", arm, s, name, seed) for seed in s.seeds] for name in (FPA, PLAIN)}
    common.finish(args, SLUG, report(s, runs))


if __name__ == "__main__":
    main()
