"""Whether faces are found by statements about whole pictures, and whether identities help to tell attributes.

    python -m reproductions.lnet_anet.run LIST [--quick]

LIST is list_attr_lfwa+.txt. Needs the labelled face collections (FACEWRIGHT_DATA) and half an hour on one core.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from facewright.data.attributes import AttributeCrops, placed
from facewright.data.crops import Variation
from facewright.data.detection import load_backgrounds
from facewright.geometry.resample import crop_by_matrix
from facewright.metrics.detection import box_iou
from facewright.systems.attributes.lnet_anet.localise import best_window, scaled
from facewright.systems.attributes.lnet_anet.network import ATTRIBUTES, LNet, LNetANet, LNetANetConfig
from facewright.systems.attributes.lnet_anet.svm import fit_svm
from facewright.systems.attributes.lnet_anet.training import attribute_loss, similarity_loss
from facewright.training.trainer import signed

from .. import common, traits
from ..parsing_arms import half

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

SLUG = "lnet_anet"
TAGS = {"1 tag": (31,), "4 tags": (15, 20, 31, 35), "40 tags": tuple(range(40))}
"""Smiling; with glasses, Male, and hats; all."""
SCRATCH, FIRST = "40 tags, from scratch", "identities first"
HIT = 0.5
SIMILARITY = 1e-3


@dataclass(frozen=True)
class Settings:
    """LNets learn `object_steps` on which background a picture shows, then `tag_steps`; ANets identities, then tags."""

    scene: int = 128
    lnet: tuple[int, int, int, int, int] = (24, 48, 64, 64, 64)
    scene_batch: int = 24
    object_steps: int = 250
    tag_steps: int = 400
    scenes: int = 300
    size: int = 71
    patch: int = 55
    people: int = 300
    least: int = 5
    face_batch: int = 48
    identity_steps: int = 400
    labelled: int = 200
    lr: float = 2e-3
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(
            scene=96, lnet=(4, 8, 8, 8, 8), scene_batch=4, object_steps=3, tag_steps=3, scenes=12, people=10,
            face_batch=6, identity_steps=3, labelled=60,
        )  # fmt: skip


# --- LNet: where faces are ------------------------------------------------------------------------------------------


def localiser(labels: str, s: Settings, tags: tuple[int, ...], pretrained: bool, seed: int) -> dict[str, Any]:
    """Train a localiser by tags, and find the faces of unseen people in unseen scenes."""
    torch.manual_seed(seed)
    backgrounds = load_backgrounds("train")
    network = LNet(s.lnet, len(backgrounds), second_pool=False)
    if pretrained:
        learn(network, lambda n, rng: object_loss(network, backgrounds, s, rng), s.object_steps, s.lr, seed, "objects")
    network.tags = torch.nn.Linear(s.lnet[-1], len(tags))
    data = AttributeCrops("train", labels=labels, part="networks", augment=True)

    def tag_loss(number: int, rng: np.random.Generator) -> torch.Tensor:
        rows = [data.rows[int(i)] for i in rng.integers(0, len(data.rows), s.scene_batch)]
        scenes = [scene_of(data, row, backgrounds, s, rng)[0] for row in rows]
        wanted = torch.from_numpy(np.stack([data.labels[row] for row in rows])[:, list(tags)]).float()
        return attribute_loss(network(signed(torch.from_numpy(np.stack(scenes))))[1], wanted)

    learn(network, tag_loss, s.tag_steps, s.lr, seed, f"{len(tags)} tags")
    return {"overlaps": found_faces(network, labels, s)}


def object_loss(network: LNet, backgrounds: list[Image], s: Settings, rng: np.random.Generator) -> torch.Tensor:
    """Which of the faceless pictures a part of one belongs to: this pre-training's stand-in for ImageNet."""
    numbers = rng.integers(0, len(backgrounds), s.scene_batch)
    parts = [part_of(backgrounds[int(number)], s.scene, rng) for number in numbers]
    _, logits = network(signed(torch.from_numpy(np.stack(parts))))
    return F.cross_entropy(logits.float(), torch.from_numpy(numbers))


def part_of(picture: Image, side: int, rng: np.random.Generator) -> Image:
    height, width = picture.shape[:2]
    cut = rng.uniform(0.4, 0.9) * min(height, width)
    scale = side / cut
    corner = rng.uniform(0, [width - cut, height - cut])
    matrix = np.column_stack([np.eye(2) * scale, -scale * corner])
    return crop_by_matrix(picture, matrix, side).image


def scene_of(
    data: AttributeCrops, row: int, backgrounds: list[Image], s: Settings, rng: np.random.Generator
) -> tuple[Image, Floats]:
    photo, points = data.photo(row)
    return placed(photo, points, backgrounds[int(rng.integers(len(backgrounds)))], s.scene, rng)


@torch.inference_mode()
def found_faces(network: LNet, labels: str, s: Settings) -> list[float]:
    """Overlap (IoU) of the best window with the face in scenes of unseen people before unseen backgrounds."""
    network.eval()
    data, backgrounds = AttributeCrops("val", labels=labels, augment=False), load_backgrounds("val")
    rng, overlaps = np.random.default_rng(0), []
    for _ in range(s.scenes):
        scene, box = scene_of(data, data.rows[int(rng.integers(len(data.rows)))], backgrounds, s, rng)
        response = network(signed(torch.from_numpy(scene[None])))[0][0].float().numpy()
        unit = s.scene / response.shape[0]
        window = scaled(best_window(response), unit, unit)
        overlaps.append(float(box_iou(np.array([window[:4]]), box[None])[0, 0]))
    return overlaps


# --- ANet: attributes from few labels -------------------------------------------------------------------------------


def faces(labels: str, s: Settings, pretrained: bool, seed: int) -> dict[str, Any]:
    """Features by identities or from scratch, machines on few labelled photos, balanced accuracies on unseen people."""
    torch.manual_seed(seed)
    data = AttributeCrops("train", labels=labels, part="networks")
    subjects = np.asarray(data.collection.labels["subject"])
    names, counts = np.unique(subjects[data.rows], return_counts=True)
    people = names[np.argsort(-counts)][: s.people]
    known = {name: i for i, name in enumerate(people)}
    rows = [row for row in data.rows if subjects[row] in known]
    config = LNetANetConfig(
        size=s.size, patch=s.patch, anet=(24, 32), local=(32, 32), features=128, identities=len(people)
    )
    model = LNetANet(config)
    anet = model.anet
    few = AttributeCrops("train", labels=labels, part="machines", augment=False).rows
    few = [few[int(i)] for i in np.random.default_rng(1).permutation(len(few))[: s.labelled]]
    spec = model.preprocess.crop
    variation = Variation({"clean": 0.7, "mild": 0.3})

    def crops(chosen: list[int], rng: np.random.Generator) -> torch.Tensor:
        cut = [variation.crop(*data.photo(row), spec, rng)[0] for row in chosen]
        offset = int(rng.integers(0, (s.size - s.patch) // 4 + 1)) * 4
        return signed(torch.from_numpy(np.stack(cut)))[:, :, offset : offset + s.patch, offset : offset + s.patch]

    def identity_loss(number: int, rng: np.random.Generator) -> torch.Tensor:
        chosen = [rows[int(i)] for i in rng.integers(0, len(rows), s.face_batch)]
        numbers = torch.tensor([known[subjects[row]] for row in chosen])
        features = anet(crops(chosen, rng))
        assert model.identity is not None
        told = F.cross_entropy(model.identity(features).float(), numbers)
        return told + SIMILARITY * similarity_loss(features, numbers)

    def attributes_loss(number: int, rng: np.random.Generator) -> torch.Tensor:
        chosen = [few[int(i)] for i in rng.integers(0, len(few), s.face_batch)]
        wanted = torch.from_numpy(np.stack([data_labels(labels, row) for row in chosen])).float()
        return attribute_loss(model.tags(anet(crops(chosen, rng))), wanted)

    if pretrained:
        learn(model, identity_loss, s.identity_steps, s.lr, seed, "identities")
    learn(model, attributes_loss, s.identity_steps // 2, s.lr / 2, seed, "attributes")
    return judged(model, labels, few, s)


_KNOWN: dict[str, dict[int, NDArray[np.int8]]] = {}


def data_labels(labels: str, row: int) -> NDArray[np.int8]:
    if labels not in _KNOWN:
        _KNOWN[labels] = AttributeCrops("train", labels=labels, part="all").labels
    return _KNOWN[labels][row]


@torch.inference_mode()
def judged(model: LNetANet, labels: str, few: list[int], s: Settings) -> dict[str, Any]:
    """Balanced accuracy of machines on the middle patch and on the mean of five, where boxes are off by 15 %."""
    model.eval()
    everything = AttributeCrops("train", labels=labels, part="all", augment=False)
    wanted = np.stack([everything.labels[row] for row in few])
    seen = features(model, everything, few, wrong=0.0)
    machines = []
    for number in range(len(ATTRIBUTES)):
        y = wanted[:, number].astype(float)
        enough = min((y > 0).sum(), (y < 0).sum()) >= 5
        machines.append(fit_svm(seen[0], y, cost=10.0, balanced=True) if enough else None)
    test = AttributeCrops("val", labels=labels, augment=False)
    rows = test.rows if s.identity_steps > 10 else test.rows[:40]
    true = np.stack([test.labels[row] for row in rows]) > 0
    patches = features(model, test, rows, wrong=0.15)
    told = [i for i, machine in enumerate(machines) if machine is not None]
    weights = np.stack([machine for machine in machines if machine is not None])
    scores = patches @ weights[:, :-1].T + weights[:, -1]
    one, mean = (traits.balanced_accuracy(found > 0, true[:, told]) for found in (scores[0], scores.mean(0)))
    exact = features(model, test, rows, wrong=0.0)[0] @ weights[:, :-1].T + weights[:, -1]
    return {
        "attributes": [ATTRIBUTES[i] for i in told],
        "balanced": np.nan_to_num(traits.balanced_accuracy(exact > 0, true[:, told]), nan=0.5).tolist(),
        "one_patch": float(np.nanmean(one)),
        "five_patches": float(np.nanmean(mean)),
    }


def features(model: LNetANet, data: AttributeCrops, rows: list[int], *, wrong: float) -> Floats:
    """(5, N, D) features of the patches of all photos, whose crops are moved by up to a share of their side."""
    spec, rng, found = model.preprocess.crop, np.random.default_rng(2), []
    patch = model.config.patch
    for start in range(0, len(rows), 64):
        crops = []
        for row in rows[start : start + 64]:
            photo, points = data.photo(row)
            matrix = spec.align(points)
            matrix[:, 2] += rng.uniform(-wrong, wrong, 2) * spec.size
            crops.append(crop_by_matrix(photo, matrix, spec.size).image)
        image = signed(torch.from_numpy(np.stack(crops)))
        found.append(torch.stack([model.anet(image[:, :, y : y + patch, x : x + patch]) for y, x in model.places]))
    return torch.cat(found, 1).double().numpy()


def learn(
    network: torch.nn.Module,
    loss_of: Callable[[int, np.random.Generator], torch.Tensor],
    steps: int,
    lr: float,
    seed: int,
    name: str,
) -> None:
    common.channels_last(network).train()
    weights = list(network.parameters())
    optimiser = torch.optim.AdamW(weights, lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=0.1, cycle_momentum=False)
    rng = np.random.default_rng(seed)
    for number in range(steps):
        with half():
            loss = loss_of(number, rng)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        schedule.step()
        if number % 50 == 0:
            print(f"    {name}, step {number} of {steps}: {float(loss.detach()):.3f}", flush=True)


# --- report -----------------------------------------------------------------------------------------------------------


def report(s: Settings, where: dict[str, list[dict[str, Any]]], what: dict[str, list[dict[str, Any]]]) -> list[str]:
    overlaps = {name: np.array([run["overlaps"] for run in runs]) for name, runs in where.items()}
    scenes = np.arange(s.scenes)

    def hits(name: str) -> Callable[[NDArray[np.int64]], float]:
        return lambda i: float((overlaps[name][:, i] >= HIT).mean())

    rows = [
        [name, traits.text(traits.by_person(scenes, hits(name))), f"{overlaps[name].mean():.2f}"] for name in overlaps
    ]
    more = traits.by_person(scenes, lambda i: hits("40 tags")(i) - hits("1 tag")(i))
    before = traits.by_person(scenes, lambda i: hits("40 tags")(i) - hits(SCRATCH)(i))
    accuracies = {name: np.array([run["balanced"] for run in runs]) for name, runs in what.items()}
    gain = traits.by_person(
        np.arange(accuracies[FIRST].shape[1]),
        lambda i: float((accuracies[FIRST][:, i] - accuracies["from scratch"][:, i]).mean()),
    )
    patches = float(np.mean([run["five_patches"] - run["one_patch"] for run in what[FIRST]]))
    return [
        "# LNet + ANet: faces found by statements, attributes helped by identities",
        "",
        "Made by `python -m reproductions.lnet_anet.run LIST`.",
        "",
        f"**Where.** {s.scenes} heads of unseen people somewhere before unseen backgrounds; a hit is a window with an",
        f"overlap (IoU) of {HIT:g} and more with the face. LNet_o of {s.lnet} channels,",
        f"{s.tag_steps} steps of {s.scene_batch}",
        f"scenes; pre-trained by {s.object_steps} steps of telling which of the faceless pictures a part belongs to.",
        "",
        *common.table(["learned from", "hits %", "mean overlap"], rows),
        "",
        f"**What.** Machines on {s.labelled} labelled photos; balanced accuracy of",
        f"{accuracies[FIRST].shape[1]} attributes on unseen people,",
        "with the range of 95 % of the resamples of attributes.",
        "",
        *common.table(
            ["", "balanced accuracy %"],
            [[name, f"{100 * values.mean():.1f}"] for name, values in accuracies.items()],
        ),
        "",
        common.verdict("40 tags find 15 points more faces than one", more[1] >= 0.15, traits.text(more)),
        common.verdict("pre-training helps to find faces", before[1] >= 0, traits.text(before)),
        common.verdict("identities first give 3 points more", gain[1] >= 0.03, traits.text(gain)),
        common.verdict("five patches give 0.5 points more than one where boxes are off by 15 %", patches >= 0.005,
                       f"{100 * patches:+.1f} points"),
    ]  # fmt: skip


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("labels", help="list_attr_lfwa+.txt")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    arms = common.Arms(common.arms_file(args, SLUG), dataclasses.replace(s), 6 * len(s.seeds))
    where: dict[str, list[dict[str, Any]]] = {}
    for name, tags, pretrained in (*((n, t, True) for n, t in TAGS.items()), (SCRATCH, TAGS["40 tags"], False)):
        where[name] = [arms.run(f"{name}, {i}", localiser, args.labels, s, tags, pretrained, i) for i in s.seeds]
    what = {
        name: [arms.run(f"{name}, {i}", faces, args.labels, s, pretrained, i) for i in s.seeds]
        for name, pretrained in ((FIRST, True), ("from scratch", False))
    }
    common.finish(args, SLUG, report(s, where, what))


if __name__ == "__main__":
    main()
