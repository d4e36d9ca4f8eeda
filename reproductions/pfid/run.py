"""Whether a loss on pairs of posteriors helps with individuals a classifier never saw, when pictures are few.

    python -m reproductions.pfid.run [--quick]

People of LFW, cut out by their boxes alone, stand in for primates. Needs the labelled face collections
(FACEWRIGHT_DATA) and half an hour on two processor cores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from facewright.data.samplers import IdentitySampler
from facewright.losses.pairs import pair_kinds, posterior_kl, posterior_pair_loss
from facewright.metrics.identification import open_set_curve, rank_rate
from facewright.metrics.verification import roc
from facewright.systems.recognise.pfid.network import PFID, PFIDConfig, gallery_templates

from .. import common
from ..common import Arms, Faces, Indices

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLUG = "pfid"
TITLE = "PFID on people, as a stand-in for primates"
PROTOCOLS = {
    "classification": "classification %",
    "tar": "TAR at FAR 1 % %",
    "rank1": "rank 1 %",
    "dir": "DIR at FPIR 1 % %",
}
MARGIN_OVER_CE = {"tar": 0.02, "dir": 0.02}


@dataclass(frozen=True)
class Settings:
    """`lambdas`: weights of the pairwise loss; `pictures`: how many of each individual are trained on."""

    lambdas: tuple[float, ...] = (0.0, 0.3, 1.0)
    pictures: tuple[int, ...] = (15, 8)
    individuals: int = 50
    kept_back: int = 5
    batch_people: int = 8
    batch_pictures: int = 4
    steps: int = 1200
    lr: float = 0.05
    decay: float = 5e-4
    ramp: float = 0.1
    galleries: int = 20
    seeds: tuple[int, ...] = (0, 1, 2)

    @classmethod
    def quick(cls) -> Settings:
        return cls(pictures=(15,), steps=80, galleries=4, seeds=(0,))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Pictures to train on and to classify, with their labels; and pictures of individuals that are in neither."""

    train: Indices
    train_labels: Indices
    known: Indices
    known_labels: Indices
    unseen: Indices

    @classmethod
    def of(cls, faces: Faces, s: Settings, pictures: int, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        pool = faces.some_people(faces.of_people(20), s.individuals, seed=0)
        train, known = [], []
        for name in np.unique(faces.people[pool]):
            own = rng.permutation(pool[faces.people[pool] == name])
            known += list(own[: s.kept_back])
            train += list(own[s.kept_back : s.kept_back + pictures])
        rows = [np.array(train), np.array(known)]
        return cls(rows[0], faces.numbered(rows[0]), rows[1], faces.numbered(rows[1]), faces.of_people(10, 19))


def run_arm(faces: Faces, s: Settings, weight: float, pictures: int, seed: int) -> dict[str, Any]:
    """Train one network and judge it by all four protocols."""
    split = Split.of(faces, s, pictures, seed)
    torch.manual_seed(seed)
    config = replace(PFIDConfig.compact(), individuals=int(split.train_labels.max()) + 1)
    model = common.channels_last(PFID(config))
    sampler = IdentitySampler(split.train_labels, s.batch_people, s.batch_pictures, seed=seed)
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(split.train_labels)

    def step(number: int) -> torch.Tensor:
        chosen = sampler.batch(number)
        images = common.augmented(faces.images[split.train[chosen]], rng)
        with common.half():
            logits = model(model.normalise(images), with_logits=True).logits.float()
        labels = targets[chosen]
        loss = F.cross_entropy(logits, labels)
        # divergences of untrained posteriors are tiny, so the push of different individuals would rule at the start
        now = weight * min(1.0, number / (s.ramp * s.steps))
        return loss + now * posterior_pair_loss(logits, labels) if now else loss

    common.train(f"lambda {weight:g}", common.decayed(model, s.lr, s.decay), step, s.steps)
    return judge(model.eval(), faces, split, s, seed)


def judge(model: PFID, faces: Faces, split: Split, s: Settings, seed: int) -> dict[str, Any]:
    def features(rows: Indices) -> NDArray[np.float64]:
        return common.run(model, model.normalise, faces.images[rows])

    head = model.fc.weight.detach().double(), model.fc.bias.detach().double()
    known = F.linear(torch.from_numpy(features(split.known)), *head)
    unseen, people = features(split.unseen), faces.people[split.unseen]
    logits = F.linear(torch.from_numpy(unseen), *head)
    return {
        "classification": float((known.argmax(1).numpy() == split.known_labels).mean()),
        **verification(unseen, people),
        **identification(unseen, people, s, seed),
        **posteriors(logits, torch.from_numpy(people)),
    }


def unit_rows(features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def verification(features: NDArray[np.float64], people: Indices) -> dict[str, float]:
    """All pairs of the unseen individuals' pictures, by cosine."""
    unit = unit_rows(features)
    a, b = np.triu_indices(len(unit), 1)
    curve = roc((unit @ unit.T)[a, b], people[a] == people[b])
    return {"tar": curve.tar_at(0.01), "tar_strict": curve.tar_at(0.001), "auc": curve.auc}


def identification(features: NDArray[np.float64], people: Indices, s: Settings, seed: int) -> dict[str, float]:
    """Closed and open set, averaged over drawn galleries of two pictures each; the open set enrols half of all."""
    rng = np.random.default_rng((seed, 1))
    unit = unit_rows(features)
    names = np.unique(people)
    rank1, rates = [], []
    for _ in range(s.galleries):
        enrolled = np.concatenate([rng.permutation(np.flatnonzero(people == name))[:2] for name in names])
        probes = np.setdiff1d(np.arange(len(people)), enrolled)
        templates, owners = gallery_templates(unit[enrolled], people[enrolled])
        similarity = unit[probes] @ templates.T
        rank1.append(rank_rate(similarity, people[probes], owners))
        inside = np.isin(owners, rng.permutation(names)[: len(names) // 2])
        rates.append(open_set_curve(similarity[:, inside], people[probes], owners[inside]).tpir_at(0.01))
    return {"rank1": float(np.mean(rank1)), "dir": float(np.mean(rates))}


def posteriors(logits: torch.Tensor, people: torch.Tensor) -> dict[str, float]:
    """Divergences in nats between posteriors of unseen individuals' pictures, and how undecided those are."""
    divergence = posterior_kl(logits)
    same, different = pair_kinds(people)
    log_p = logits.log_softmax(1)
    return {
        "kl_same": float(divergence[same].mean()),
        "kl_different": float(divergence[different].mean()),
        "entropy": float(-(log_p.exp() * log_p).sum(1).mean()),
    }


# --- report


def report(s: Settings, results: dict[tuple[int, float], list[dict[str, Any]]]) -> list[str]:
    header = [
        "pictures of each",
        "λ",
        *PROTOCOLS.values(),
        "TAR at FAR 0.1 % %",
        "AUC %",
        "KL same",
        "KL different",
        "entropy",
    ]
    rows = [
        [str(pictures), f"{weight:g}"]
        + [common.mean_std([r[key] for r in runs]) for key in (*PROTOCOLS, "tar_strict", "auc")]
        + [common.mean_std([r[key] for r in runs], 1.0, 2) for key in ("kl_same", "kl_different", "entropy")]
        for (pictures, weight), runs in results.items()
    ]
    verdicts = [line for pictures in s.pictures for line in verdicts_of(pictures, results)]
    return [
        f"# {TITLE}",
        "",
        "```",
        "python -m reproductions.pfid.run             # the labelled collections are found through FACEWRIGHT_DATA",
        "```",
        "",
        "**These are human faces, not primates.** What is compared is the loss, not a recogniser of animals: a thin",
        "ResNet-10 from scratch on 64 px box crops without alignment; λ is the weight of the pairwise loss, 0 is",
        f"cross-entropy alone. {s.individuals} people to train on, {len(s.seeds)} random splits, mean ± deviation.",
        "Classification is of new pictures of the trained people; all else is of people never trained on.",
        f"Identification enrols two pictures each, in {s.galleries} drawn galleries; the open set half of the people.",
        "",
        *common.table(header, rows),
        "",
        "KL: mean divergence in nats between the posteriors of two pictures of unseen people.",
        "",
        "The claim of the paper, in this setting:",
        "",
        *verdicts,
    ]


def verdicts_of(pictures: int, results: dict[tuple[int, float], list[dict[str, Any]]]) -> list[str]:
    """Whether λ = 1 is no worse than cross-entropy in all protocols and clearly better where it should be."""
    base, full = results[pictures, 0.0], results[pictures, 1.0]
    gains = {key: [f[key] - b[key] for f, b in zip(full, base)] for key in (*PROTOCOLS, "kl_same", "kl_different")}
    means = {key: float(np.mean(values)) for key, values in gains.items()}
    clear = all(means[key] >= least and means[key] > spread(base, full, key) for key, least in MARGIN_OVER_CE.items())
    written = ", ".join(f"{PROTOCOLS[key].removesuffix(' %')} {100 * means[key]:+.1f}" for key in PROTOCOLS)
    return [
        common.verdict(
            f"{pictures} pictures: λ = 1 is at least as good as cross-entropy in all four protocols",
            all(means[key] >= 0 for key in PROTOCOLS),
            f"points: {written}",
        ),
        common.verdict(
            f"{pictures} pictures: in TAR and in DIR it is better by 2 points, and by more than the splits vary",
            clear,
            f"splits vary by {100 * spread(base, full, 'tar'):.1f} and {100 * spread(base, full, 'dir'):.1f} points",
        ),
        common.verdict(
            f"{pictures} pictures: posteriors of one unseen person come closer, those of two move apart",
            means["kl_same"] < 0 < means["kl_different"],
            f"{means['kl_same']:+.2f} and {means['kl_different']:+.2f} nats",
        ),
    ]


def spread(a: list[dict[str, Any]], b: list[dict[str, Any]], key: str) -> float:
    """The pooled standard deviation over the splits; 0 for a single one."""
    variances = [np.var([r[key] for r in runs], ddof=1) for runs in (a, b) if len(runs) > 1]
    return float(np.sqrt(np.mean(variances))) if variances else 0.0


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    faces = common.load_faces("box")
    arms = Arms(common.arms_file(args, SLUG), s, len(s.lambdas) * len(s.pictures) * len(s.seeds))
    results = {
        (pictures, weight): [
            arms.run(f"lambda {weight:g}, {pictures} pictures, split {seed}", run_arm, faces, s, weight, pictures, seed)
            for seed in s.seeds
        ]
        for pictures in s.pictures
        for weight in s.lambdas
    }
    common.finish(args, SLUG, report(s, results))


if __name__ == "__main__":
    main()
