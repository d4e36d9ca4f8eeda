"""MADation's claim: a pre-trained transformer changed by low-rank matrices tells morphs of tools it never met.

    python -m reproductions.madation.run --prepare local/madation         # once: makes the morphs
    python -m reproductions.madation.run --data local/madation --write    # a few minutes on one core

The compact transformer learns from morphs of whole pictures and is judged on other people and on three other tools: as
MADation does it, with the head alone, with everything trained, and from scratch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from facewright.data.prepared import read_prepared, write_prepared
from facewright.degrade.forge import Storage, morph, region_mask, stored
from facewright.degrade.forge.morph import MorphFinish
from facewright.geometry.crop import CropSpec
from facewright.metrics.forensics import mmpmr
from facewright.metrics.presentation import auc, bpcer_at_nearest_apcer, eer
from facewright.pipelines.identity import calibration_of
from facewright.runtime.session import default_session
from facewright.systems.morph.madation.network import MORPH, Madation
from facewright.training.trainer import Recipe, Trainer, signed

from .. import common
from ..common.forged import Portraits, portraits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

SLUG = "madation"
RECIPE = Path("recipes/madation-compact.yaml")
TOOLS: tuple[MorphFinish, ...] = get_args(MorphFinish)
"""The first is learnt from."""
SIDE, RING = 112, 24
WORK = SIDE + 2 * RING
CROP = CropSpec.aligned(WORK, "arcface", zoom=SIDE / WORK)
"""The system's crop with a ring around it, so that a morph has all of both heads."""
CAMERA = Storage(quality=92)
WORN = "whole, worn"
"""Morphs learnt from and bona fide portraits, each reduced, noisy or compressed by lot."""
RATES: dict[str, float] = {"low-rank": 5e-3, "head": 5e-2, "full": 3e-4, "scratch": 1e-3}
"""Learning rate of every arm: of the head where nothing else is trained, else of the tower. As in the paper, what is
trained alone and little takes a larger one."""
NAMES = {
    "low-rank": "MADation: low-rank matrices and head",
    "head": "head alone",
    "full": "everything, pre-trained",
    "scratch": "everything, from scratch",
}
MEAN_GREY = 118
DRAWS = 300
"""Resamples of test people behind an interval."""


@dataclass(frozen=True)
class Settings:
    steps: int = 160
    people: int = 1000
    test_people: int = 300
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=4, seeds=(0,))


# --- data -------------------------------------------------------------------------------------------------------------


def centre(image: Image) -> Image:
    return np.ascontiguousarray(image[RING : RING + SIDE, RING : RING + SIDE])


def pictures(faces: Portraits, tool: MorphFinish, seed: int) -> tuple[list[Image], list[tuple[int, int]], list[Image]]:
    """A morph of everybody with a look-alike: the crops, whom they were made of, and where the inner face is."""
    crops, parents, hulls = [], [], []
    for row in range(len(faces)):
        rng = np.random.default_rng((seed, row))
        other = faces.partner(row, rng)
        ends = [(faces.crops[k], faces.points68[k]) for k in (row, other)]
        made = morph(*ends[0], *ends[1], finish=tool)
        crops.append(stored(centre(made.image), CAMERA))
        parents.append((row, other))
        hulls.append(hull((ends[0][1] + ends[1][1]) / 2))
    return crops, parents, hulls


def hull(points: NDArray[np.floating]) -> Image:
    """Eyes, nose and mouth of a work crop's landmarks, (112, 112) of 0 and 1."""
    return centre(region_mask(points, "inner face", (WORK, WORK)).astype(np.uint8))


def prepare(folder: Path, s: Settings) -> None:
    """Write bona fide portraits and then morphs, tool by tool: of training people and of held-out people."""
    for split, most, tools in (("train", s.people, TOOLS[:1]), ("val", s.test_people, TOOLS)):
        faces = portraits(split, CROP, most)  # type: ignore[arg-type]
        images = [stored(centre(image), CAMERA) for image in faces.crops]
        hulls = [hull(points) for points in faces.points68]
        parents = [(row, row) for row in range(len(faces))]
        for tool in tools:
            made = pictures(faces, tool, 0)
            images += made[0]
            parents += made[1]
            hulls += made[2]
        write_prepared(
            folder,
            split,  # type: ignore[arg-type]
            {
                "image": np.stack(images),
                "morph": (np.arange(len(images)) >= len(faces)).astype(np.int64),
                "parents": np.array(parents),
                "hull": np.stack(hulls),
            },
        )


# --- one arm ----------------------------------------------------------------------------------------------------------


class Bench:
    """The pictures, and how an arm is trained and judged."""

    def __init__(self, folder: Path, work: Path, s: Settings) -> None:
        self.folder, self.work, self.s = folder, work, s
        self.recipe = Recipe.load(RECIPE)
        self.test = read_prepared(folder, "val")
        self.people = int((self.test["morph"] == 0).sum())

    def rows(self, tool: str) -> slice:
        """Test pictures of a tool; "" for bona fide ones."""
        start = 0 if not tool else (1 + TOOLS.index(tool)) * self.people
        return slice(start, start + self.people)

    def run(self, arm: str, rate: float, seed: int) -> dict[str, Any]:
        model = self.trained(arm, rate, seed)
        real = np.array(self.test["image"][self.rows("")])
        scores = {tool: scores_of(model, np.array(self.test["image"][self.rows(tool)])) for tool in ("", *TOOLS)}
        found: dict[str, Any] = {tool: judged(scores[""], scores[tool]) for tool in TOOLS}
        found["scores"] = {tool: values.round(6).tolist() for tool, values in scores.items()}
        whole = np.array(self.test["image"][self.rows(TOOLS[0])])
        found[WORN] = judged(scores_of(model, worn(real, 0)), scores_of(model, worn(whole, 1)))
        for name, inside in (("inner face alone", True), ("without the inner face", False)):
            seen = [
                scores_of(model, hidden(images, self.test["hull"][self.rows(tool)], inside))
                for images, tool in ((real, ""), (whole, TOOLS[0]))
            ]
            found[name] = judged(*seen)
        return found | {"trained": sum(p.numel() for p in model.parameters() if p.requires_grad)}

    def trained(self, arm: str, rate: float, seed: int) -> Madation:
        options = self.recipe.training["options"] | {"arm": arm}
        options |= {"head_lr": rate} if arm == "head" else {"lr": rate}
        recipe = dataclasses.replace(
            self.recipe,
            training=self.recipe.training | {"options": options},
            data=self.recipe.data | {"options": self.recipe.data["options"] | {"folder": str(self.folder)}},
            steps=self.s.steps,
            seed=seed,
        )
        trainer = Trainer(recipe, self.work / f"{arm}-{rate:g}-{seed}")
        trainer.run()
        model = trainer.training.model
        assert isinstance(model, Madation)
        return model.eval()


@torch.inference_mode()
def scores_of(model: Madation, images: Image) -> Floats:
    """P(morph) of crops (N,)."""
    parts = []
    for start in range(0, len(images), 100):
        with common.half():
            logits = model(signed(torch.from_numpy(images[start : start + 100]))).float()
        parts.append(logits.softmax(1)[:, MORPH].double().numpy())
    return np.concatenate(parts)


def judged(bona_fide: Floats, morphs: Floats) -> dict[str, float]:
    scores = np.concatenate([bona_fide, morphs])
    attack = np.arange(len(scores)) >= len(bona_fide)
    rate, at = bpcer_at_nearest_apcer(scores, attack, 0.1)
    return {"auc": auc(scores, attack), "eer": eer(scores, attack).rate, "bpcer": rate, "at": at}


def worn(images: Image, seed: int) -> Image:
    rng = np.random.default_rng(seed)
    return np.stack([stored(image, Storage.drawn(rng)) for image in images])


def hidden(images: Image, hulls: NDArray[np.uint8], inside: bool) -> Image:
    """The pictures with everything but the inner face grey, or the inner face."""
    kept = (hulls > 0) if inside else (hulls == 0)
    return np.where(kept[..., None], images, np.uint8(MEAN_GREY))


def morph_match(folder: Path) -> dict[str, tuple[float, float]]:
    """MMPMR of every tool against the embedded recogniser at a FAR of 0.1 %, and the mean of the least similarity."""
    test = read_prepared(folder, "val")
    recogniser: Any = default_session().network("distilledface")
    known = calibration_of(recogniser)
    assert known is not None
    embedded = np.asarray(recogniser.embed(np.array(test["image"])), np.float64)
    found: dict[str, tuple[float, float]] = {}
    people = int((test["morph"] == 0).sum())
    for number, tool in enumerate(TOOLS):
        rows = np.arange((1 + number) * people, (2 + number) * people)
        similar = np.stack([(embedded[rows] * embedded[test["parents"][rows, side]]).sum(1) for side in (0, 1)], 1)
        found[tool] = (mmpmr(similar, known.point(0.001).threshold), float(similar.min(1).mean()))
    return found


# --- report -----------------------------------------------------------------------------------------------------------

Runs = dict[str, list[dict[str, Any]]]


def report(s: Settings, runs: Runs, match: dict[str, tuple[float, float]]) -> list[str]:
    unseen = TOOLS[1:]
    kinds = (*TOOLS, WORN)

    def cell(arm: str, names: tuple[str, ...], key: str) -> str:
        return common.mean_std([float(np.mean([run[name][key] for name in names])) for run in runs[arm]])

    errors = [
        [NAMES[arm], f"{RATES[arm]:g}", f"{runs[arm][0]['trained']:,}"]
        + [cell(arm, (kind,), "eer") for kind in kinds]
        + [cell(arm, unseen, "eer")]
        for arm in RATES
    ]
    strict = [
        [NAMES[arm], *(cell(arm, (kind,), "bpcer") for kind in kinds), cell(arm, unseen, "bpcer")] for arm in RATES
    ]
    parts = [
        [NAMES[arm], *(cell(arm, (name,), "auc") for name in (TOOLS[0], "inner face alone", "without the inner face"))]
        for arm in RATES
    ]
    return [
        "# MADation: low-rank matrices against the rest",
        "",
        "```",
        "python -m reproductions.madation.run --prepare local/madation",
        "python -m reproductions.madation.run --data local/madation --write",
        "```",
        "",
        f"The transformer that ships as `vitfiqa` learns for {s.steps} steps of 32 pictures from {s.people} portraits",
        f"and as many whole morphs of look-alikes. Judged on {s.test_people} other people and as many morphs of every",
        f"tool, cut and compressed alike. {len(s.seeds)} run(s) of every arm, each with its own learning rate, which",
        "was set before and not tuned.",
        "",
        "EER %:",
        "",
        *common.table(["trained", "rate", "weights", *kinds, "mean of unseen tools"], errors),
        "",
        "BPCER % at an APCER of 10 %:",
        "",
        *common.table(["trained", *kinds, "mean of unseen tools"], strict),
        "",
        f"`{WORN}`: the tool learnt from, morphs and portraits reduced, noisy or compressed by lot.",
        "",
        "Pasted morphs keep the first head's outline, and whatever learned from whole morphs hardly finds them.",
        "",
        "Where it looks (AUC % on whole morphs, the rest of the picture grey):",
        "",
        *common.table(["trained", "all", "inner face alone", "without the inner face"], parts),
        "",
        "Are these morphs an attack? MMPMR by the embedded recogniser at a FAR of 0.1 %; another chose the partners:",
        "",
        *common.table(
            ["tool", "MMPMR %", "least similarity, mean"],
            [[tool, f"{100 * match[tool][0]:.0f}", f"{match[tool][1]:.2f}"] for tool in TOOLS],
        ),
        "",
        *verdicts(runs, unseen),
    ]


def mean_eer(runs: list[dict[str, Any]], tools: tuple[str, ...], people: NDArray[np.int64]) -> float:
    """EER, mean over some tools and over seeds, of some of the test people and of the morphs made from them."""
    rates = []
    for run in runs:
        bona_fide = np.array(run["scores"][""])[people]
        for tool in tools:
            scores = np.concatenate([bona_fide, np.array(run["scores"][tool])[people]])
            rates.append(eer(scores, np.arange(len(scores)) >= len(people)).rate)
    return float(np.mean(rates))


def gain(runs: Runs, better: str, worse: str, tools: tuple[str, ...], draws: int = DRAWS) -> tuple[float, float, float]:
    """By how much one arm's EER is below another's, and the 95 % interval over test people."""
    count = len(runs[better][0]["scores"][""])
    rng = np.random.default_rng(0)

    def difference(people: NDArray[np.int64]) -> float:
        return mean_eer(runs[worse], tools, people) - mean_eer(runs[better], tools, people)

    found = [difference(rng.integers(count, size=count)) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return difference(np.arange(count)), float(low), float(high)


def verdicts(runs: Runs, unseen: tuple[str, ...]) -> list[str]:
    def decided(claim: str, other: str, tools: tuple[str, ...] = unseen) -> str:
        mean, low, high = gain(runs, "low-rank", other, tools)
        outcome = low > 0 if low > 0 or high < 0 else common.Verdict.INCONCLUSIVE
        said = f"EER lower by {100 * mean:.1f} points, 95 % interval over people {100 * low:.1f} to {100 * high:.1f}"
        return common.verdict(claim, outcome, said)

    return [
        decided("On unseen tools low-rank matrices beat the head alone", "head"),
        decided("On unseen tools they beat the same network from scratch", "scratch"),
        decided("On unseen tools they beat training everything", "full"),
        decided("On the tool learnt from they beat the head alone", "head", TOOLS[:1]),
        decided("On the tool learnt from they beat the same network from scratch", "scratch", TOOLS[:1]),
        decided("On the tool learnt from they beat training everything", "full", TOOLS[:1]),
    ]


def main() -> None:
    parser = common.options(__doc__, threads=1)
    parser.add_argument("--data", type=Path, default=Path("local/madation"), help="what --prepare wrote")
    parser.add_argument("--prepare", type=Path, help="make the morphs in this folder, and stop")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    if args.prepare:
        prepare(args.prepare, s)
        return
    arms = common.Arms(common.arms_file(args, SLUG), s, len(RATES) * len(s.seeds))
    bench = Bench(args.data, args.work / f"{SLUG}-runs{'-quick' if args.quick else ''}", s)
    runs: Runs = {arm: [] for arm in RATES}
    for seed in s.seeds:
        for arm, rate in RATES.items():
            runs[arm].append(arms.run(f"{arm}, seed {seed}", bench.run, arm, rate, seed))
    common.finish(args, SLUG, report(s, runs, morph_match(args.data)), ["vitfiqa", "distilledface"])


if __name__ == "__main__":
    main()
