"""Whether all pairs of a batch give a steadier gradient than disjoint pairs, faster training, and a usable threshold.

    python -m reproductions.multibatch.run [--quick]

Needs the labelled face collections (FACEWRIGHT_DATA) and half an hour on two processor cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.data.samplers import IdentitySampler
from facewright.losses.pairs import disjoint_pairs_loss, multibatch_loss, squared_distances
from facewright.systems.recognise.multibatch.network import Multibatch, MultibatchConfig

from .. import common
from ..common import Arms, Faces, Indices, Pairs, Verification

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLUG = "multibatch"
TITLE = "Multibatch: variance, convergence, learned threshold"
DISJOINT = "disjoint pairs"
FASTER = "disjoint pairs, twice the rate"
ALL_PAIRS = "all pairs"
METHODS = (ALL_PAIRS, DISJOINT, FASTER)


@dataclass(frozen=True)
class Settings:
    """Part A: batches of k pictures, each drawn `draws` times. Part B: batches of people × pictures for `steps`."""

    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    pictures_of_each: tuple[int, ...] = (4, 8)
    draws: int = 120
    half_way: int = 200
    most_pictures: int = 16
    people: int = 16
    pictures: int = 8
    steps: int = 750
    checks: int = 10
    lr: float = 0.05
    decay: float = 1e-4
    seeds: tuple[int, ...] = (0, 1, 2)
    test_people: int = 500
    pairs_per_fold: int = 150

    @classmethod
    def quick(cls) -> Settings:
        return cls(
            batch_sizes=(16, 32, 64),
            pictures_of_each=(4,),
            draws=12,
            half_way=20,
            steps=40,
            checks=4,
            seeds=(0,),
            test_people=200,
            pairs_per_fold=60,
        )


# --- part A: how the gradient varies


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Pictures sorted by person: `decks[i]` are the indices of one person's."""

    images: common.Images
    decks: list[Indices]

    @classmethod
    def of(cls, faces: Faces, least: int, most: int) -> People:
        chosen = faces.of_people(least)
        names = np.unique(faces.people[chosen])
        return cls(faces.images, [chosen[faces.people[chosen] == name][:most] for name in names])

    def grid(self, people: int, pictures: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
        """Indices and labels of a batch for all pairs: different people, different pictures of each."""
        who = rng.choice(len(self.decks), people, replace=False)
        rows = np.concatenate([rng.choice(self.decks[i], pictures, replace=False) for i in who])
        return rows, np.repeat(who, pictures)

    def pairs(self, count: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
        """Indices and labels of `count` independent pairs, one after the other; every second shows one person.

        Both kinds are distributed as in `grid`, so that both estimators have one expectation.
        """
        rows, labels = [], []
        for number in range(count):
            a, b = rng.choice(len(self.decks), 2, replace=False)
            if number % 2:
                rows += list(rng.choice(self.decks[a], 2, replace=False))
                labels += [a, a]
            else:
                rows += [rng.choice(self.decks[i]) for i in (a, b)]
                labels += [a, b]
        return np.array(rows), np.array(labels)


def gradient_spread(model: Multibatch, people: People, s: Settings, k: int, pictures: int, seed: int) -> dict[str, Any]:
    """The trace of the covariance of the gradient over all weights; 0 `pictures` means k/2 disjoint pairs.

    Batch norms are frozen: else pictures of a batch would not be independent.
    """
    rng = np.random.default_rng((seed, k, pictures))
    weights = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in weights), dtype=torch.float64)
    squares = 0.0
    for _ in range(s.draws):
        rows, labels = people.grid(k // pictures, pictures, rng) if pictures else people.pairs(k // 2, rng)
        out = model(common.signed(people.images[rows]), with_threshold=True)
        loss = multibatch_loss if pictures else disjoint_pairs_loss
        value = loss(out.vectors, torch.from_numpy(labels), out.threshold)
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)]).double()
        total += flat
        squares += float(flat.square().sum())
    mean = float((total / s.draws).square().sum())
    return {"variance": (squares - s.draws * mean) / (s.draws - 1), "gradient": mean**0.5}


def fresh_model(people: People, seed: int) -> Multibatch:
    """A new network whose batch norms and threshold are set from pictures."""
    torch.manual_seed(seed)
    model = common.channels_last(Multibatch(MultibatchConfig.compact()))
    settle(model, people, seed)
    return model


@torch.no_grad()
def settle(model: Multibatch, people: People, seed: int) -> None:
    rows, _ = people.grid(32, 8, np.random.default_rng(seed))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    distances = squared_distances(model.train()(common.signed(people.images[rows])))
    for norm in norms:
        norm.momentum = 0.1
    model.set_threshold(float(distances[~torch.eye(len(rows), dtype=torch.bool)].median()))


def part_a(arms: Arms, faces: Faces, s: Settings) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Variances by (network, pictures of each person, k)."""
    people = People.of(faces, 10, s.most_pictures)
    states = {"fresh": lambda: fresh_model(people, 0), "half trained": lambda: half_trained(faces, people, s)}
    found = {}
    for state, build in states.items():
        model: Multibatch | None = None
        for pictures in (0, *s.pictures_of_each):
            for k in (k for k in s.batch_sizes if k >= 2 * pictures):
                name = f"A: {state}, {f'{pictures} pictures a person' if pictures else DISJOINT}, k={k}"
                if name not in arms.done and model is None:
                    model = build().eval()
                found[state, pictures, k] = arms.run(name, gradient_spread, model, people, s, k, pictures, 0)
    return found


def half_trained(faces: Faces, people: People, s: Settings) -> Multibatch:
    print(f"    training a network for {s.half_way} steps", flush=True)
    model = fresh_model(people, 0)
    optimise(model, faces, s, ALL_PAIRS, 0, s.half_way)
    return model


# --- part B: how fast training goes; part C: the threshold it learns


def disjoint_order(people: int, pictures: int, rng: np.random.Generator) -> Indices:
    """An order of a person-by-person batch that makes disjoint pairs of it, half of them of one person."""
    grid = rng.permuted(np.arange(people * pictures).reshape(people, pictures), axis=1)
    own, across = grid[:, : pictures // 2], grid[:, pictures // 2 :]
    return np.concatenate([own.ravel(), rng.permuted(across, axis=0).T.ravel()])


def optimise(model: Multibatch, faces: Faces, s: Settings, method: str, seed: int, steps: int, **options: Any) -> None:
    """Train by one of the methods on batches that are the same for all of them."""
    train = faces.of_people(s.pictures)
    sampler = IdentitySampler(faces.people[train], s.people, s.pictures, seed=seed)
    rng = np.random.default_rng(seed)
    lr = s.lr * (2 if method == FASTER else 1)

    def step(number: int) -> torch.Tensor:
        chosen = train[sampler.batch(number)]
        labels = torch.from_numpy(faces.people[chosen])
        images = common.augmented(faces.images[chosen], rng)
        with common.half():
            out = model(common.signed(images), with_threshold=True)
        if method == ALL_PAIRS:
            return multibatch_loss(out.vectors, labels, out.threshold)
        order = disjoint_order(s.people, s.pictures, rng)
        return disjoint_pairs_loss(out.vectors[order], labels[order], out.threshold)

    groups = common.decayed(model.backbone, lr, s.decay)
    groups.append({"params": [model.theta], "lr": lr, "weight_decay": 0.0})
    common.train(method, groups, step, steps, **options)


def training_arm(faces: Faces, test: Pairs, s: Settings, method: str, seed: int) -> dict[str, Any]:
    """Train, judging on unseen people along the way."""
    model = fresh_model(People.of(faces, 10, s.most_pictures), seed)
    every = s.steps // s.checks
    images, curve = [], []

    def check(done: int) -> None:
        if done % every == 0:
            images.append(done * s.people * s.pictures)
            curve.append(Verification.of(signatures(model.eval(), faces, test), test, unit=False).auc)
            model.train()

    optimise(model.train(), faces, s, method, seed, s.steps, after=check)
    vectors = signatures(model.eval(), faces, test)
    found = Verification.of(vectors, test, unit=False)
    distance = ((vectors[test.first] - vectors[test.second]) ** 2).sum(1)
    theta = float(model.threshold.detach())
    return {
        "images": images,
        "curve": curve,
        "auc": found.auc,
        "accuracy": found.accuracy,
        "tar": found.tar,
        "theta": theta,
        "at_theta": float(np.mean((distance < theta) == test.same)),
        "at_best": max(
            float(np.mean((distance < t) == test.same)) for t in np.quantile(distance, np.linspace(0, 1, 201))
        ),
    }


def signatures(model: Multibatch, faces: Faces, pairs: Pairs) -> NDArray[np.float64]:
    used = np.union1d(pairs.first, pairs.second)
    return common.spread_out(faces, used, common.run(model, common.signed, faces.images[used], mirror=False))


# --- report


def slope(found: dict[tuple[str, int, int], dict[str, Any]], state: str, pictures: int) -> float:
    """The exponent of the variance as a power of k."""
    sizes = [k for s, p, k in found if (s, p) == (state, pictures)]
    logs = [np.log(found[state, pictures, k]["variance"]) for k in sizes]
    return float(np.polyfit(np.log(sizes), logs, 1)[0])


def report_a(s: Settings, found: dict[tuple[str, int, int], dict[str, Any]]) -> list[str]:
    rows, verdicts = [], []
    for state in ("fresh", "half trained"):
        for pictures in (0, *s.pictures_of_each):
            values = [found.get((state, pictures, k)) for k in s.batch_sizes]
            cells = ["–" if v is None else f"{v['variance']:.3g}" for v in values]
            name = f"all pairs, {pictures} pictures a person" if pictures else DISJOINT
            rows.append([state, name, *cells, f"{slope(found, state, pictures):.2f}"])
        ratios = {p: found[state, p, 64]["variance"] / found[state, 0, 64]["variance"] for p in s.pictures_of_each}
        best = min(ratios, key=lambda p: ratios[p])
        law, baseline = slope(found, state, best), slope(found, state, 0)
        verdicts += [
            common.verdict(
                f"{state}: at k=64 all pairs have at most a third of the variance of disjoint pairs",
                ratios[best] <= 1 / 3,
                f"{ratios[best]:.2f} with {best} pictures a person",
            ),
            common.verdict(
                f"{state}: the variance falls faster than k^−1.2 with all pairs, as k^−1 with disjoint pairs",
                law <= -1.2 and abs(baseline + 1) <= 0.15,
                f"k^{law:.2f} and k^{baseline:.2f}",
            ),
        ]
    header = ["network", "pairs", *(f"k={k}" for k in s.batch_sizes), "exponent of k"]
    return [
        "## A. Variance of the gradient",
        "",
        f"Trace of its covariance over {s.draws} batches of k pictures, by the pairs it is averaged over. Pairs of one",
        "person and of two weigh the same, and are distributed alike for both.",
        "",
        *common.table(header, rows),
        "",
        *verdicts,
    ]


def report_bc(s: Settings, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    curves = {method: np.mean([r["curve"] for r in results], axis=0) for method, results in runs.items()}
    images = runs[ALL_PAIRS][0]["images"]
    rows = [
        [method]
        + [f"{100 * value:.1f}" for value in curves[method]]
        + [common.mean_std([r[key] for r in runs[method]]) for key in ("auc", "accuracy", "tar")]
        for method in METHODS
    ]
    header = ["pairs", *(f"{n / 1000:.0f}k" for n in images), "final AUC %", "10-fold accuracy %", "TAR at FAR 1 % %"]
    paired = max((DISJOINT, FASTER), key=lambda m: float(np.mean([r["auc"] for r in runs[m]])))
    goal = curves[paired][-1]
    reached = [n for n, value in zip(images, curves[ALL_PAIRS]) if value >= goal]
    share = reached[0] / images[-1] if reached else float("inf")
    gain = float(np.mean([r["auc"] for r in runs[ALL_PAIRS]]) - np.mean([r["auc"] for r in runs[paired]]))
    gap = float(np.mean([r["at_best"] - r["at_theta"] for r in runs[ALL_PAIRS]]))
    return [
        "## B. Convergence",
        "",
        f"AUC (%) of unseen people by pictures seen; batches of {s.people} people with {s.pictures} pictures, mean of "
        f"{len(s.seeds)} seeds.",
        "",
        *common.table(header, rows),
        "",
        common.verdict(
            f"all pairs reach the final AUC of the better paired run ({paired}) with at most half the pictures",
            share <= 0.5,
            f"with {share:.0%} of them" if reached else "not reached",
        ),
        common.verdict("and end at least a point higher", gain >= 0.01, f"{100 * gain:+.1f} points of AUC"),
        "",
        "## C. The learned threshold",
        "",
        *common.table(
            ["pairs", "θ", "accuracy at θ %", "at the best threshold for these pairs %"],
            [
                [m, common.mean_std([r["theta"] for r in runs[m]], 1.0, 2)]
                + [common.mean_std([r[key] for r in runs[m]]) for key in ("at_theta", "at_best")]
                for m in METHODS
            ],
        ),
        "",
        common.verdict("θ is within a point of the best threshold", gap <= 0.01, f"{100 * gap:.1f} points below"),
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    faces = common.load_faces("aligned")
    test_people = faces.some_people(faces.of_people(2, 4), s.test_people, seed=2)
    test = common.verification_pairs(faces, test_people, s.pairs_per_fold)
    sizes = sum(k >= 2 * pictures for pictures in (0, *s.pictures_of_each) for k in s.batch_sizes)
    arms = Arms(common.arms_file(args, SLUG), s, 2 * sizes + len(METHODS) * len(s.seeds))
    variances = part_a(arms, faces, s)
    runs = {
        method: [arms.run(f"B: {method}, seed {seed}", training_arm, faces, test, s, method, seed) for seed in s.seeds]
        for method in METHODS
    }
    lines = [
        f"# {TITLE}",
        "",
        "```",
        "python -m reproductions.multibatch.run       # the labelled collections are found through FACEWRIGHT_DATA",
        "```",
        "",
        "A small network-in-network on 64 px crops of LFW, trained from scratch; no test person was trained on.",
        "",
        *report_a(s, variances),
        "",
        *report_bc(s, runs),
    ]
    common.finish(args, SLUG, lines)


if __name__ == "__main__":
    main()
