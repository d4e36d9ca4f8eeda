"""Whether undegraded keys and values, asked by the picture, restore better than self-attention or other dictionaries.

    python -m reproductions.restoreformer.run [--quick]

Small networks of one size on 64 px crops of LFW. Needs the labelled face collections (FACEWRIGHT_DATA) and half an hour
on two processor cores.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from torch import nn

from facewright.degrade import apply, sample
from facewright.losses.reconstruction import edge_loss
from facewright.metrics import psnr
from facewright.nn.inference import has_bf16
from facewright.systems.restore.restoreformer.network import RestoreFormer, RestoreFormerConfig

from .. import common
from ..common import Arms, Faces, Images, Indices

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SLUG = "restoreformer"
TITLE = "RestoreFormer: undegraded keys and values"
INPUT = "input, not restored"
ARMS = {
    "self": "self-attention, reconstruction dictionary",
    "cross1": "cross-attention at one side",
    "cross2": "cross-attention at two sides",
    "recognition": "cross-attention at two sides, recognition dictionary",
}
SIDES = {"self": (), "cross1": (8,), "cross2": (16, 8), "recognition": (16, 8)}


@dataclass(frozen=True)
class Settings:
    """`dictionary_steps`, `restore_steps`: of the stages; `judge_steps`: of the network that measures identity."""

    dictionary_steps: int = 600
    restore_steps: int = 400
    judge_steps: int = 700
    batch_size: int = 8
    lr: float = 1e-3
    test_faces: int = 1000
    people: int = 150
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(dictionary_steps=40, restore_steps=30, judge_steps=40, test_faces=64)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """People to learn from, people to learn recognition from (pictures are many), and people to test on."""

    train: Indices
    known: Indices
    test: Indices

    @classmethod
    def of(cls, faces: Faces, s: Settings) -> Split:
        """A tenth of all people is kept for the test."""
        kept = faces.people % 10 == 0
        frequent = np.intersect1d(faces.of_people(6), np.flatnonzero(~kept))
        test = np.random.default_rng(0).permutation(np.flatnonzero(kept))[: s.test_faces]
        return cls(np.flatnonzero(~kept), faces.some_people(frequent, s.people, seed=0), np.sort(test))


def config_for(arm: str) -> RestoreFormerConfig:
    """64 px, 8×8 codes, the same widths in every arm."""
    return RestoreFormerConfig(
        size=64,
        width=32,
        multipliers=(1, 1, 2, 2),
        attention_at=(8,),
        cross_at=SIDES[arm],
        heads=2,
        codes=256,
        code_dim=32,
    )


def damaged(images: Images, rng: np.random.Generator) -> Images:
    """Blur, shrinking, noise and JPEG as RestoreFormer's, sizes scaled to these crops."""
    return np.stack([apply(i, sample("restoreformer", rng, i.shape[0], scaled=True)) for i in images])


def fit(name: str, parameters: list[nn.Parameter], loss: Any, s: Settings, steps: int) -> None:
    """Adam with a cosine, `loss(number)` for every step."""
    optimiser = torch.optim.Adam(parameters, s.lr, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for number in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
            value = loss(number)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if number % 100 == 99 or number == steps - 1:
            print(f"    {name}: {number + 1}/{steps}, loss {float(value.detach()):.3f}", flush=True)


def reconstruction(model: RestoreFormer, given: Images, wanted: Images) -> torch.Tensor:
    """L1, edges and the codebook's loss."""
    target = common.signed(wanted)
    # the gradient of a group norm is several times slower in channels-last
    out, aux = model(common.signed(given).contiguous(), return_aux=True)
    return F.l1_loss(out, target) + edge_loss(out, target) + aux["code_loss"]


def cluster_codes(model: RestoreFormer, images: Images) -> None:
    """Start the codebook at the centres of the encoder's features: k-means."""
    with torch.inference_mode():
        latents, _ = model.net.encode(common.signed(images))
    vectors = latents.permute(0, 2, 3, 1).flatten(0, 2).float().numpy()
    means = MiniBatchKMeans(model.config.codes, random_state=0, n_init=1).fit(vectors)
    with torch.no_grad():
        model.net.quantiser.codebook.copy_(torch.from_numpy(means.cluster_centers_))


@cache
def reconstruction_dictionary(faces: Faces, split: Split, s: Settings, seed: int) -> RestoreFormer:
    """Encoder, codes and decoder learnt together on good faces."""
    torch.manual_seed(seed)
    model = RestoreFormer(config_for("self"))
    batches = common.Epochs(len(split.train), s.batch_size, seed)
    cluster_codes(model, faces.images[split.train[:256]])

    def loss(number: int) -> torch.Tensor:
        images = faces.images[split.train[batches.batch(number)]]
        return reconstruction(model, images, images)

    fit("dictionary", list(model.parameters()), loss, s, s.dictionary_steps)
    return model


@cache
def recognition_dictionary(faces: Faces, split: Split, s: Settings, seed: int) -> RestoreFormer:
    """Codes of an encoder that learnt to tell people apart, then a decoder for them; twice the steps of the other."""
    torch.manual_seed(seed)
    model = RestoreFormer(config_for("self"))
    labels = torch.from_numpy(faces.numbered(split.known))
    head = nn.Linear(model.config.code_dim, int(labels.max()) + 1)
    batches = common.Epochs(len(split.known), s.batch_size, seed)

    def recognise(number: int) -> torch.Tensor:
        chosen = batches.batch(number)
        latents, _ = model.net.encode(common.signed(faces.images[split.known[chosen]]))
        return F.cross_entropy(head(latents.mean((2, 3))), labels[chosen])

    encoder = [*model.net.encoder.parameters(), *model.net.before.parameters()]
    fit("recognition", [*encoder, *head.parameters()], recognise, s, s.dictionary_steps)
    cluster_codes(model, faces.images[split.train[:256]])
    every = common.Epochs(len(split.train), s.batch_size, seed)

    def paint(number: int) -> torch.Tensor:
        images = faces.images[split.train[every.batch(number)]]
        return reconstruction(model, images, images)

    decoder = [*model.net.after.parameters(), *model.net.decoder.parameters()]
    fit("its decoder", decoder, paint, s, s.dictionary_steps)
    return model


@cache
def judge(faces: Faces, split: Split, s: Settings) -> common.SmallResNet:
    """A recogniser that nothing here was trained with."""
    torch.manual_seed(7)
    labels = torch.from_numpy(faces.numbered(split.known))
    network, head = common.SmallResNet(), nn.Linear(128, int(labels.max()) + 1)
    batches, rng = common.Epochs(len(split.known), 32, 7), np.random.default_rng(7)

    def loss(number: int) -> torch.Tensor:
        chosen = batches.batch(number)
        return F.cross_entropy(
            head(network(common.signed(common.augmented(faces.images[split.known[chosen]], rng)))), labels[chosen]
        )

    fit("judge", [p for m in (network, head) for p in m.parameters() if p.requires_grad], loss, s, s.judge_steps)
    return network.eval()


def run_arm(faces: Faces, split: Split, s: Settings, arm: str, seed: int) -> dict[str, Any]:
    """Start from the arm's dictionary, learn to restore, judge on other people."""
    prepare = recognition_dictionary if arm == "recognition" else reconstruction_dictionary
    dictionary = prepare(faces, split, s, seed)
    torch.manual_seed(seed)
    model = copy.deepcopy(dictionary) if arm == "self" else RestoreFormer(config_for(arm))
    if arm != "self":
        model.load_dictionary(dictionary)
    model.net.quantiser.requires_grad_(False)
    batches, rng = common.Epochs(len(split.train), s.batch_size, seed + 100), np.random.default_rng(seed)

    def loss(number: int) -> torch.Tensor:
        images = faces.images[split.train[batches.batch(number)]]
        return reconstruction(model, damaged(images, rng), images)

    fit(ARMS[arm], [p for p in model.parameters() if p.requires_grad], loss, s, s.restore_steps)
    return measure(model.eval().restore, faces, split, s)


def run_input(faces: Faces, split: Split, s: Settings) -> dict[str, Any]:
    """The damaged pictures themselves."""
    return measure(lambda images: images, faces, split, s)


def measure(restore: Callable[[Images], Images], faces: Faces, split: Split, s: Settings) -> dict[str, Any]:
    """Fidelity to the truth and to the person, face by face."""
    truth = faces.images[split.test]
    restored = restore(damaged(truth, np.random.default_rng(1)))
    network = judge(faces, split, s)
    a, b = (common.run(network, common.signed, images) for images in (restored, truth))
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)
    angles = np.arccos(cosine.clip(-1, 1))
    quality = [psnr(x, y, data_range=255) for x, y in zip(restored, truth)]
    return {"identity": float(angles.mean()), "psnr": float(np.mean(quality)), "angles": angles.round(4).tolist()}


def lower(better: NDArray[np.float64], worse: NDArray[np.float64]) -> tuple[bool, str]:
    """Whether the first angles are smaller, by a paired bootstrap at 95 %."""
    differences = np.asarray(worse) - np.asarray(better)
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (2000, len(differences)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return bool(low > 0), f"smaller by {differences.mean():.4f} rad, 95 % interval {low:.4f} to {high:.4f}"


def report(results: dict[str, list[dict[str, Any]]], given: dict[str, Any], s: Settings) -> list[str]:
    """The table and the verdicts, which are inconclusive where no arm is better than its input `given`."""
    rows = [
        [
            name,
            common.mean_std([r["identity"] for r in results[arm]], 1, 4),
            common.mean_std([r["psnr"] for r in results[arm]], 1, 2),
        ]
        for arm, name in ARMS.items()
    ]
    rows.insert(0, [INPUT, f"{given['identity']:.4f}", f"{given['psnr']:.2f}"])
    harmful = all(r["psnr"] < given["psnr"] for runs in results.values() for r in runs)
    angles = {arm: np.concatenate([r["angles"] for r in runs]) for arm, runs in results.items()}
    claims = {
        "asking with the picture beats self-attention": lower(angles["cross1"], angles["self"]),
        "two sides beat one": lower(angles["cross2"], angles["cross1"]),
        "a dictionary for reconstruction beats one for recognition": lower(angles["cross2"], angles["recognition"]),
    }
    return [
        f"# {TITLE}",
        "",
        f"{s.test_faces} faces of people none of the networks saw; {len(s.seeds)} seed(s), {s.restore_steps} steps.",
        "",
        *common.table(["arm", "identity distance, rad", "PSNR, dB"], rows),
        "",
        *(common.verdict(name, *outcome, harmful=harmful) for name, outcome in claims.items()),
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    faces = common.load_faces("aligned")
    split = Split.of(faces, s)
    s = replace(s, test_faces=len(split.test))
    arms = Arms(common.arms_file(args, SLUG), s, len(ARMS) * len(s.seeds) + 1)
    given = arms.run(INPUT, run_input, faces, split, s)
    results = {
        arm: [arms.run(f"{arm}, seed {seed}", run_arm, faces, split, s, arm, seed) for seed in s.seeds] for arm in ARMS
    }
    common.finish(args, SLUG, report(results, given, s))


if __name__ == "__main__":
    main()
