"""Does SUR-LID forget less than fine-tuning and than plain replay?

    python -m reproductions.surlid.run --prepare local/surlid         # once: forges the pictures, a few minutes
    python -m reproductions.surlid.run --data local/surlid --write    # about half an hour on one core

Five makers of forgeries come one after the other, each with people and a camera of its own. After every task the
detector is judged on all makers so far, on people nobody was trained on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from facewright.data.prepared import PER_GROUP, read_prepared, write_prepared
from facewright.degrade.forge import Storage, morph, stored
from facewright.degrade.forge.resynthesis import Upsampler, redrawn
from facewright.metrics.presentation import auc
from facewright.systems.forgery.surlid.network import SurLid
from facewright.systems.forgery.surlid.training import (
    FAKE,
    REAL,
    grid_shuffled,
    grown,
    nearest_centre,
    sparse_uniform,
    stability,
)
from facewright.training.trainer import Recipe, Trainer, build_config, signed

from .. import common
from ..common.forged import Portraits, portraits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

SLUG = "surlid"
RECIPE = Path("recipes/surlid-compact.yaml")
MAKERS = (*get_args(Upsampler), "morph")
"""Four redraw the whole face, each by another up-sampler; the last mixes two people."""
CAMERAS = (
    Storage(quality=92),
    Storage(quality=80, gain=0.92),
    Storage(blur=0.5, gamma=1.15),
    Storage(noise=3.0, gamma=0.88),
    Storage(reduction=1.2, quality=85),
)
"""How each task's pictures, real and forged, are stored."""
LEAST = 0.5
"""Points by which every run must agree; less is chance with so few."""
MEASURED = 30
"""Pictures of a class a selection keeps where selections are compared with the whole class."""
SHUFFLED = (3, 0, 1, 2)
"""An order of quarters in which none keeps its place."""

Selection = Literal["", "random", "centre", "even"]


@dataclass(frozen=True)
class Arm:
    """One way to go through the stream. `keep`: which pictures are replayed. `own_heads`: one head a task."""

    keep: Selection = "even"
    own_heads: bool = True
    distil: bool = True
    isolate: bool = True
    refill: bool = True
    align: bool = True


ARMS: dict[str, Arm] = {
    "fine-tuning": Arm("", own_heads=False, distil=False, isolate=False, refill=False, align=False),
    "plain replay": Arm("random", own_heads=False, distil=False, isolate=False, refill=False, align=False),
    "SUR-LID": Arm(),
    "without isolation": Arm(isolate=False, refill=False),
    "without alignment": Arm(align=False),
    "with random replay": Arm("random"),
}


@dataclass(frozen=True)
class Settings:
    """`kept` pictures of each class of each task are replayed; `orders` are of `MAKERS`."""

    steps: int = 80
    kept: int = 4
    people: int = 400
    test_people: int = 250
    orders: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1))
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=6, seeds=(0,), orders=((0, 1, 2, 3, 4),))


# --- data -------------------------------------------------------------------------------------------------------------


def forged(faces: Portraits, row: int, maker: int, rng: np.random.Generator) -> Image:
    """A forgery of one portrait; donors are among the same people."""
    image, points = faces.crops[row], faces.points68[row]
    if MAKERS[maker] != "morph":
        return redrawn(image, MAKERS[maker], rng)
    other = faces.partner(row, rng)
    donor, there = faces.crops[other], faces.points68[other]
    return morph(image, points, donor, there, alpha=float(rng.uniform(0.4, 0.6))).image


def task_pictures(faces: Portraits, maker: int, seed: int) -> list[Image]:
    """Every portrait, real and then forged, as the task's camera stores them."""
    made = []
    for row in range(len(faces)):
        rng = np.random.default_rng((seed, maker, row))
        for image in (faces.crops[row], forged(faces, row, maker, rng)):
            camera = dataclasses.replace(CAMERAS[maker], seed=int(rng.integers(1 << 31)))
            made.append(stored(image, camera))
    return made


def prepare(folder: Path, s: Settings) -> None:
    """Forge and write the pictures: people of their own for every task, and for all tests the same held-out ones."""
    recipe = Recipe.load(RECIPE)
    spec = SurLid.preprocess_for(build_config(SurLid, recipe.config)).crop
    train = portraits("train", spec, s.people * len(MAKERS))
    sides = {"train": [train.part(k, len(MAKERS)) for k in range(len(MAKERS))]}
    sides["val"] = [portraits("val", spec, s.test_people)] * len(MAKERS)
    for split, groups in sides.items():
        pictures = [task_pictures(faces, maker, int(split == "val")) for maker, faces in enumerate(groups)]
        labels = [np.arange(len(made)) % 2 for made in pictures]
        write_prepared(
            folder,
            split,  # type: ignore[arg-type]
            {
                "image": np.concatenate([np.stack(made) for made in pictures]),
                "label": np.concatenate(labels),
                "task": np.repeat(np.arange(len(MAKERS)), [len(made) for made in pictures]),
            },
        )


# --- one stream -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def features_of(model: SurLid, images: NDArray[np.uint8], order: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """Pooled features (N, D), of the pictures or of their quarters in another order."""
    parts = []
    for start in range(0, len(images), 100):
        x = signed(torch.from_numpy(np.array(images[start : start + 100]))).contiguous(
            memory_format=torch.channels_last
        )
        with common.half():
            parts.append(model.features(grid_shuffled(x, order) if order else x).float().numpy())
    return np.concatenate(parts)


def selected(model: SurLid, images: NDArray[np.uint8], count: int, how: Selection, seed: int) -> NDArray[np.int64]:
    """Which of the pictures of one class of the task just learnt are kept."""
    if how == "random":
        return np.random.default_rng(seed).permutation(len(images))[:count].astype(np.int64)
    features = features_of(model, images)
    if how == "centre":
        return nearest_centre(features, count)
    stable = stability(torch.from_numpy(features), torch.from_numpy(features_of(model, images, SHUFFLED)))
    return sparse_uniform(features, stable.numpy(), count)


def discrepancy(kept: NDArray[np.floating], everything: NDArray[np.floating]) -> float:
    """Squared maximum mean discrepancy of two sets of unit features, Gaussian kernel of the median distance."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (kept, everything))
    between = {name: 2 - 2 * x @ y.T for name, (x, y) in {"aa": (a, a), "bb": (b, b), "ab": (a, b)}.items()}
    width = float(np.median(between["bb"]))
    means = {name: float(np.exp(-distance / max(width, 1e-9)).mean()) for name, distance in between.items()}
    return means["aa"] + means["bb"] - 2 * means["ab"]


class Stream:
    """The pictures and how they are gone through."""

    def __init__(self, folder: Path, work: Path, s: Settings) -> None:
        self.folder, self.work, self.s = folder, work, s
        self.train, self.test = (read_prepared(folder, split) for split in ("train", "val"))
        self.recipe = Recipe.load(RECIPE)

    def run(self, arm: Arm, order: tuple[int, ...], seed: int) -> dict[str, Any]:
        """AUC of every task after every task, (T, T), and of all together at the end."""
        place = self.work / "-".join(map(str, (*order, "seed", seed)))
        model: SurLid | None = None
        replay: list[list[NDArray[np.int64]]] = []
        table, gaps = [], []
        for position in range(len(order)):
            first = position == 0
            name = ("isolated" if arm.isolate else "plain") if first else "-".join(map(str, dataclasses.astuple(arm)))
            model = self.learnt(place / f"{position}-{name}", arm, order, position, seed, model, replay)
            table.append([self.auc(model, task) for task in order[: position + 1]])
            if arm.keep and position < len(order) - 1:
                rows = [self.rows(order[position], label) for label in (REAL, FAKE)]
                replay.append([r[selected(model, self.train["image"][r], self.s.kept, arm.keep, seed)] for r in rows])
            if arm == Arm() and position < len(order) - 1:
                gaps.append(self.gaps(model, order[position], seed))
        assert model is not None
        scores, labels = self.scores(model, np.arange(len(self.test["label"])))
        found: dict[str, Any] = {"table": table, "together": auc(scores, labels), "final": float(np.mean(table[-1]))}
        if gaps:
            found["gaps"] = {how: float(np.mean([gap[how] for gap in gaps])) for how in gaps[0]}
        return found | {"forgetting": forgetting(table)}

    def learnt(
        self,
        folder: Path,
        arm: Arm,
        order: tuple[int, ...],
        position: int,
        seed: int,
        before: SurLid | None,
        replay: list[list[NDArray[np.int64]]],
    ) -> SurLid:
        """The network after one task."""
        data: dict[str, Any] = {"folder": str(self.folder), "order": list(order), "position": position}
        data |= {"new": 20, "one_head": not arm.own_heads}
        options: dict[str, Any] = dict(self.recipe.training["options"])
        start, size = "", data["new"]
        if not (arm.isolate and arm.distil):
            weights = dict(options["weights"])
            weights |= {} if arm.isolate else {"isolation": 0.0}
            weights |= {} if arm.distil else {"features": 0.0, "answers": 0.0}
            options["weights"] = weights
        options |= {"align": arm.align, "refill": "neighbours" if arm.refill else ""}
        folder.mkdir(parents=True, exist_ok=True)
        if before is not None:
            start = str(grown(before, position + 1 if arm.own_heads else 1).save_pretrained(folder / "start"))
            if arm.distil:
                options["teacher"] = str(before.save_pretrained(folder / "before"))
        if replay:
            np.save(folder / "replay.npy", np.array(replay))
            data["replay"] = str(folder / "replay.npy")
            size += 2 * PER_GROUP * len(replay)
        recipe = dataclasses.replace(
            self.recipe,
            training=self.recipe.training | {"options": options},
            data=self.recipe.data | {"options": data},
            steps=self.s.steps,
            batch_size=size,
            start_from=start,
            seed=seed,
        )
        return SurLid.from_pretrained(Trainer(recipe, folder).run()).eval()

    def rows(self, task: int, label: int) -> NDArray[np.int64]:
        return np.flatnonzero((self.train["task"] == task) & (self.train["label"] == label))

    def auc(self, model: SurLid, task: int) -> float:
        return auc(*self.scores(model, np.flatnonzero(self.test["task"] == task)))

    def scores(self, model: SurLid, rows: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        """P(fake) of test pictures, by the vote of the heads, and which are."""
        with torch.inference_mode():
            logits = model.vote(torch.from_numpy(features_of(model, self.test["image"][rows])))
        return logits.softmax(1)[:, FAKE].double().numpy(), self.test["label"][rows] == FAKE

    def gaps(self, model: SurLid, task: int, seed: int) -> dict[str, float]:
        """How far what each selection keeps is from all pictures of the task, mean of both classes."""
        found: dict[str, list[float]] = {}
        for label in (REAL, FAKE):
            images = self.train["image"][self.rows(task, label)]
            features = features_of(model, images)
            for how in ("random", "centre", "even"):
                kept = selected(model, images, MEASURED, how, seed)
                found.setdefault(how, []).append(discrepancy(features[kept], features))
        return {how: float(np.mean(values)) for how, values in found.items()}


def forgetting(table: list[list[float]]) -> float:
    """Mean over the tasks before the last of how far the AUC fell from its best."""
    last = table[-1]
    drops = [max(row[k] for row in table if len(row) > k) - last[k] for k in range(len(last) - 1)]
    return float(np.mean(drops))


# --- report -----------------------------------------------------------------------------------------------------------


def report(s: Settings, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = [
        [name, *(common.mean_std([r[key] for r in found]) for key in ("final", "forgetting", "together"))]
        for name, found in runs.items()
    ]
    lines = [
        "# SUR-LID: does it forget less?",
        "",
        "```",
        "python -m reproductions.surlid.run --prepare local/surlid",
        "python -m reproductions.surlid.run --data local/surlid --write",
        "```",
        "",
        "Five makers of forgeries come one after the other: the whole face redrawn by one of four up-samplers",
        f"({', '.join(MAKERS[:-1])}), and morphs. Each has {s.people} people and a camera of its own, and",
        f"{s.kept} pictures of each class of a task are kept. {len(s.orders)} orders, {len(s.seeds)} run(s) of each,",
        f"{s.steps} steps a task, the compact network from scratch. Judged on {s.test_people} people new to it.",
        "Mean ± standard deviation over the runs, %.",
        "",
        *common.table(["arm", "mean AUC at the end", "forgetting", "AUC of all makers together"], rows),
        "",
        "Forgetting is how far a task's AUC fell from its best, mean over all tasks but the last. Fine-tuning and",
        "plain replay (random pictures, cross-entropy only) have one head. The arms below SUR-LID are SUR-LID with one",
        "thing changed; without isolation there is nothing to refill. All of these keep a head for every task and the",
        "distillation, which is most of what sets them apart from plain replay here.",
    ]
    for number, order in enumerate(s.orders):
        lines += ["", f"AUC % after each task, order {' → '.join(MAKERS[k] for k in order)}, first seed:", ""]
        body = []
        for name in ("fine-tuning", "plain replay", "SUR-LID"):
            for after, row in enumerate(runs[name][number * len(s.seeds)]["table"]):
                cells = [f"{100 * value:.1f}" for value in row] + [""] * (len(order) - len(row))
                body.append([name if not after else "", MAKERS[order[after]], *cells])
        lines += common.table(["arm", "after", *(MAKERS[k] for k in order)], body)
    gaps = [run["gaps"] for run in runs["SUR-LID"]]
    lines += [
        "",
        f"Squared maximum mean discrepancy between {MEASURED} pictures of a class and all of it, ×1000: "
        + ", ".join(
            f"{name} {1000 * np.mean([gap[how] for gap in gaps]):.1f}"
            for how, name in (("even", "sparse uniform"), ("random", "random"), ("centre", "from the centre"))
        )
        + ".",
        "",
        *verdicts(runs),
    ]
    return lines


def verdicts(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    def compared(claim: str, better: str, worse: str, key: str = "final", sign: int = 1) -> str:
        gains = [sign * 100 * (a[key] - b[key]) for a, b in zip(runs[better], runs[worse])]
        clear = min(gains) >= LEAST or max(gains) <= -LEAST
        outcome = gains[0] > 0 if clear else common.Verdict.INCONCLUSIVE
        said = ", ".join(f"{gain:+.1f}" for gain in gains)
        return common.verdict(claim, outcome, f"{said} points")

    gaps = {how: np.mean([run["gaps"][how] for run in runs["SUR-LID"]]) for how in ("even", "random", "centre")}
    return [
        compared("SUR-LID ends with a higher mean AUC than fine-tuning", "SUR-LID", "fine-tuning"),
        compared("SUR-LID forgets less than fine-tuning", "SUR-LID", "fine-tuning", "forgetting", -1),
        compared("SUR-LID ends with a higher mean AUC than as much plain replay", "SUR-LID", "plain replay"),
        compared("SUR-LID forgets less than plain replay", "SUR-LID", "plain replay", "forgetting", -1),
        compared("Sparse uniform replay is better than random pictures", "SUR-LID", "with random replay"),
        compared("Isolation helps", "SUR-LID", "without isolation"),
        compared("Alignment helps", "SUR-LID", "without alignment"),
        common.verdict(
            "What sparse uniform replay keeps is nearest to the whole class",
            bool(gaps["even"] < min(gaps["random"], gaps["centre"])),
            ", ".join(f"{how} {1000 * value:.1f}" for how, value in gaps.items()),
        ),
    ]


def main() -> None:
    parser = common.options(__doc__, threads=1)
    parser.add_argument("--data", type=Path, default=Path("local/surlid"), help="what --prepare wrote")
    parser.add_argument("--prepare", type=Path, help="forge the pictures into this folder, and stop")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    if args.prepare:
        prepare(args.prepare, s)
        return
    arms = common.Arms(common.arms_file(args, SLUG), s, len(ARMS) * len(s.orders) * len(s.seeds))
    stream = Stream(args.data, args.work / f"{SLUG}-runs{'-quick' if args.quick else ''}", s)
    runs = {
        name: [
            arms.run(f"{name}, order {''.join(map(str, order))}, seed {seed}", stream.run, arm, order, seed)
            for order in s.orders
            for seed in s.seeds
        ]
        for name, arm in ARMS.items()
    }
    common.finish(args, SLUG, report(s, runs))


if __name__ == "__main__":
    main()
