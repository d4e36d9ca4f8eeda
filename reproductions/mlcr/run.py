"""Whether two views that agree on unlabelled faces beat supervised training on few labelled ones, and which term helps.

    python -m reproductions.mlcr.run [--quick]

Needs the labelled face collections (FACEWRIGHT_DATA) and a quarter of an hour on one processor core; 360 faces are
rendered on first use.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.data.actions import MOST_YAW, units_of_truth
from facewright.data.ages import points_of
from facewright.data.crops import Variation
from facewright.data.faces import data_root, open_faces
from facewright.data.parsing import parsing_renders
from facewright.systems.action_units.mlcr.network import MLCR, MLCRConfig
from facewright.systems.action_units.mlcr.relations import relations_of
from facewright.systems.action_units.mlcr.training import MLCRTraining

from .. import common, traits
from ..parsing_arms import half

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Picture = tuple[NDArray[np.uint8], NDArray[np.float64]]

SLUG = "mlcr"
UNITS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU9", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26")
SUPERVISED, VIEWS, APART, AGREED, FULL = (
    "one view, labelled faces", "two views", "+ different classifiers", "+ agreement", "+ relation graph",
)  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    SUPERVISED: {"views": 1, "apart": False, "agreed": False, "graph": "off"},
    VIEWS: {"views": 2, "apart": False, "agreed": False, "graph": "off"},
    APART: {"views": 2, "apart": True, "agreed": False, "graph": "off"},
    AGREED: {"views": 2, "apart": True, "agreed": True, "graph": "off"},
    FULL: {"views": 2, "apart": True, "agreed": True, "graph": "live"},
}


@dataclass(frozen=True)
class Settings:
    """Labelled renders, unlabelled photos of LFW, and how long both views learn."""

    size: int = 64
    features: int = 96
    labelled: int = 240
    labelled_batch: int = 16
    unlabelled_batch: int = 24
    steps: int = 500
    lr: float = 2e-3
    multi_view: float = 40.0
    agreement: float = 10.0
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(size=32, features=16, labelled=40, labelled_batch=4, unlabelled_batch=4, steps=4)


class Renders:
    """Rendered faces of a split with their labels (N, U)."""

    def __init__(self, split: str, count: int | None) -> None:
        self.shards = parsing_renders(split, data_root(), count)  # type: ignore[arg-type]
        truths = [self.shards.truth(i) for i in range(count or len(self.shards))]
        self.numbers = [i for i, t in enumerate(truths) if abs(float(t["pose"]["yaw"])) <= MOST_YAW]
        self.labels = np.stack([units_of_truth(truths[i], UNITS)[0] for i in self.numbers])
        self.points = [np.asarray(truths[i]["points5"]["xy"], np.float64) for i in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def picture(self, index: int) -> Picture:
        return self.shards.picture(self.numbers[index]), self.points[index]


def crops_of(model: MLCR, pictures: list[Picture], rng: np.random.Generator, *, augment: bool) -> torch.Tensor:
    variation = Variation({"clean": 0.7, "mild": 0.3}, augment=augment)
    cut = [variation.crop(image, points, model.preprocess.crop, rng)[0] for image, points in pictures]
    return torch.from_numpy(np.stack(cut))


def arm(s: Settings, name: str, seed: int) -> dict[str, Any]:
    """Train both views (a single view is the first of two, alone in the loss) and judge their mean on other renders."""
    torch.manual_seed(seed)
    choice = ARMS[name]
    config = MLCRConfig(s.size, s.size, UNITS, "mobilenet", s.features, graph=choice["graph"])
    model = common.channels_last(MLCR(config))
    training = MLCRTraining(model, multi_view=s.multi_view * choice["apart"], agreement=s.agreement * choice["agreed"])
    train, faces = Renders("train", s.labelled), open_faces("lfw", "train")
    model.relations.copy_(relations_of(torch.from_numpy(train.labels)))
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, s.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.lr, s.steps, pct_start=0.1, cycle_momentum=False)

    def update(_: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        schedule.step()

    rng = np.random.default_rng(seed)
    model.train()
    for number in range(s.steps):
        chosen = rng.integers(0, len(train), s.labelled_batch)
        pictures = [train.picture(int(i)) for i in chosen]
        units = train.labels[chosen]
        if choice["agreed"]:
            rows = faces.rows[rng.integers(0, len(faces), s.unlabelled_batch)]
            pictures += [(faces.read(int(row)), points_of(faces, int(row))) for row in rows]
            units = np.concatenate([units, np.zeros((s.unlabelled_batch, len(UNITS)), np.int64)])
        batch = {"image": crops_of(model, pictures, rng, augment=True), "units": torch.from_numpy(units)}
        with half():
            logs = training.step(batch, update, number / s.steps)
        if number % 50 == 0:
            print(f"    {name}, step {number} of {s.steps}: {float(logs['labelled']):.3f}", flush=True)
    return judged(model, choice["views"])


@torch.inference_mode()
def judged(model: MLCR, views: int) -> dict[str, Any]:
    """Mean F1 of the units, the cosine of the classifiers, and how far errors of both views go together."""
    model.eval()
    test = Renders("val", None)
    rng = np.random.default_rng(0)
    chances = []
    for start in range(0, len(test), 32):
        pictures = [test.picture(i) for i in range(start, min(start + 32, len(test)))]
        seen = model(model.normalise(crops_of(model, pictures, rng, augment=False).numpy()), return_aux=True)
        chances.append(torch.stack(list(seen["views"])).float().sigmoid().double().numpy())
    each = np.concatenate(chances, 1)
    known, true = test.labels != 0, test.labels == 1
    errors = (each - true)[:, known]
    cosines = torch.nn.functional.cosine_similarity(model.classifier(0), model.classifier(1), dim=1).abs()
    return {
        "f1": f1(each[:views].mean(0) > 0.5, true, known),
        "found": (each[:views].mean(0) > 0.5).astype(int).tolist(),
        "cosine": float(cosines.mean()),
        "errors_together": float(np.corrcoef(errors)[0, 1]),
    }


def f1(found: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]) -> float:
    """Mean F1 over units of answers (N, U) where the label is known; units that nobody shows are left out."""
    hits = (found & true & known).sum(0)
    size = (found & known).sum(0) + (true & known).sum(0)
    return float((2 * hits / np.maximum(size, 1))[true.sum(0) > 0].mean())


def report(s: Settings, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    test = Renders("val", None)
    known, true = test.labels != 0, test.labels == 1
    answers = {name: np.array([run["found"] for run in results], bool) for name, results in runs.items()}

    def score(name: str) -> Callable[[NDArray[np.int64]], float]:
        return lambda i: float(np.mean([f1(each[i], true[i], known[i]) for each in answers[name]]))

    def gain(name: str, rival: str) -> tuple[float, float, float]:
        return traits.by_person(np.arange(len(test)), lambda i: score(name)(i) - score(rival)(i))

    mean = {key: {name: float(np.mean([run[key] for run in results])) for name, results in runs.items()}
            for key in ("cosine", "errors_together")}  # fmt: skip
    rows = [
        [
            name,
            traits.text(traits.by_person(np.arange(len(test)), score(name))),
            "" if name == SUPERVISED else traits.text(gain(name, SUPERVISED)),
            "" if name == SUPERVISED else f"{mean['cosine'][name]:.3f}",
            "" if name == SUPERVISED else f"{mean['errors_together'][name]:.3f}",
        ]
        for name in ARMS
    ]
    full, together = gain(FULL, SUPERVISED), mean["errors_together"]
    return [
        "# MLCR: two views, unlabelled faces, and the graph of action units",
        "",
        "Made by `python -m reproductions.mlcr.run`.",
        "",
        f"{len(test)} rendered faces of other people with exact units; {s.labelled} rendered faces were labelled,",
        f"and photos of LFW were not. {s.steps} steps; {len(s.seeds)} seed{'s' * (len(s.seeds) != 1)}. Weights of",
        f"the terms scaled to λ_mv = {s.multi_view:g} and λ_cr = {s.agreement:g} for batches and networks of this",
        "size.",
        "",
        "Mean F1 (%) over the units, with the range of 95 % of the resamples of faces:",
        "",
        *common.table(["", "F1", "over one view", "|cos| of classifiers", "correlation of both views' errors"], rows),
        "",
        common.verdict("everything beats one view on labelled faces by 3 points", full[1] >= 0.03, traits.text(full)),
        common.verdict("classifiers look at different features: |cos| below 0.05", mean["cosine"][FULL] < 0.05,
                       f"{mean['cosine'][FULL]:.3f}"),
        common.verdict("without that term errors go together more", together[VIEWS] > together[APART],
                       f"{together[VIEWS]:.3f} against {together[APART]:.3f}"),
    ]  # fmt: skip


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    arms = common.Arms(common.arms_file(args, SLUG), dataclasses.replace(s), len(ARMS) * len(s.seeds))
    runs = {name: [arms.run(f"{name}, seed {seed}", arm, s, name, seed) for seed in s.seeds] for name in ARMS}
    common.finish(args, SLUG, report(s, runs))


if __name__ == "__main__":
    main()
