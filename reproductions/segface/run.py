"""Whether class tokens find rare classes better than a plain head does on the same backbone.

    python -m reproductions.segface.run [--quick] [--write]

Needs the backgrounds and the face model of the labelled collections (FACEWRIGHT_DATA) and a quarter of an hour on two
processor cores, once the faces are rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from facewright.data.parsing import aligned_pair
from facewright.losses.segmentation import cross_entropy_dice
from facewright.systems.parse.segface.network import SegFace, SegFaceConfig
from facewright.systems.parse.segface.training import RARE
from facewright.systems.parse.taxonomy import CELEBAMASK_19

from .. import common, parsing_arms
from ..parsing_arms import Bootstrap, Faces, percent, verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..parsing_arms import Images

SLUG = "segface"
TOKENS, PLAIN = "class tokens", "plain head"
METHODS = (TOKENS, PLAIN)
RARE_CLASSES = [CELEBAMASK_19.index(name) for name in RARE]
OTHER_CLASSES = [i for i in range(1, len(CELEBAMASK_19)) if i not in RARE_CLASSES]
NAMES = {"eye_g": "glasses", "hat": "hat", "ear_r": "earring", "neck_l": "necklace"}
MOST_YAW = 60.0  # degrees; the template knows no profiles
CONVOLUTIONS = 3  # of the plain head, for nearly as many weights as the tokens' attention has


@dataclass(frozen=True)
class Settings:
    """Crops of `size`; every rare class is in at most `rare` times as many training pictures as have none of them."""

    size: int = 96
    rare: float = 0.06
    shift: int = 3
    batch_size: int = 8
    steps: int = 1500
    lr: float = 3e-3
    seeds: tuple[int, ...] = (0, 1)

    @classmethod
    def quick(cls) -> Settings:
        return cls(size=64, rare=0.2, steps=30, seeds=(0,))


# --- pictures


def made_rare(labels: Images, rare: list[int], share: float, seed: int) -> NDArray[np.int64]:
    """Sorted indices of label maps (N, H, W): all without rare classes, and with each of them at most `share` as many.

    A picture with several rare classes counts for all of them. Drawn in a random order.
    """
    shown = np.stack([(labels == number).any((1, 2)) for number in rare], 1)
    plain = ~shown.any(1)
    quota = np.full(len(rare), round(share * int(plain.sum())))
    kept = list(np.flatnonzero(plain))
    for index in np.random.default_rng(seed).permutation(np.flatnonzero(~plain)):
        if (quota[shown[index]] > 0).all():
            quota -= shown[index]
            kept.append(index)
    return np.sort(np.array(kept, np.int64))


def crops(faces: Faces, size: int) -> tuple[Images, Images]:
    """FFHQ crops (N, S, S, 3) and their labels (N, S, S) of the heads that are not turned too far."""
    near = faces[np.abs(faces.yaw) <= MOST_YAW]
    pairs = [aligned_pair(*one, size) for one in zip(near.images, near.labels, near.points5)]
    return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])


def shares(labels: Images) -> list[float]:
    """Of the label maps, those that show each rare class."""
    return [float((labels == number).any((1, 2)).mean()) for number in RARE_CLASSES]


# --- arms


class PlainHead(nn.Module):
    """What stands in for the tokens: 3×3 convolutions at stride 4, the decoder's own enlargement, a 1×1 convolution."""

    def __init__(self, enlarge: nn.Module, width: int, features: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(CONVOLUTIONS):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.enlarge = enlarge
        self.out = nn.Conv2d(features, classes, 1)

    def forward(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.out(self.enlarge(self.body(fused)))
        return logits


def parser(method: str, seed: int) -> SegFace:
    """A new compact SegFace, the same for both methods but for the head; any size of crops goes through it."""
    torch.manual_seed(seed)
    model = SegFace(SegFaceConfig.compact())
    if method == PLAIN:
        shape = model.config
        head = PlainHead(model.net.decoder.enlarge, shape.width, shape.features, len(model.classes))
        model.net.decoder = head  # type: ignore[assignment]
    return model


def arm(
    train: tuple[Images, Images], test: tuple[Images, Images], s: Settings, method: str, seed: int
) -> dict[str, Any]:
    model = parser(method, seed)
    order = common.Epochs(len(train[0]), s.batch_size, seed)
    rng = np.random.default_rng(seed)

    def loss_of(number: int) -> Tensor:
        chosen = order.batch(number)
        images, labels = parsing_arms.augmented(train[0][chosen], train[1][chosen], s.shift, rng)
        return cross_entropy_dice(model(model.normalise(images)), torch.from_numpy(labels))

    parsing_arms.train(f"{method}, seed {seed}", model, loss_of, s.steps, s.lr)
    counts = parsing_arms.counted(model.classes, test[1], predicted(model, test[0]))
    scores = parsing_arms.f1(np.sum(counts, 0, dtype=np.float64))
    return {
        "weights": sum(weight.numel() for weight in model.net.decoder.parameters()),
        "rare F1": float(np.nanmean(scores[RARE_CLASSES])),
        "other F1": float(np.nanmean(scores[OTHER_CLASSES])),
        "counts": counts,
    }


@torch.inference_mode()
def predicted(model: SegFace, images: Images) -> Images:
    """Labels (N, S, S) of crops at the size they have."""
    parts = np.array_split(images, -(-len(images) // 16))
    maps = [model(model.normalise(part)).argmax(1).to(torch.uint8).numpy() for part in parts]
    return np.concatenate(maps)


# --- report


def report(s: Settings, runs: dict[str, list[dict[str, Any]]], train: Images, test: Images) -> list[str]:
    counts = {method: np.array([r["counts"] for r in results]) for method, results in runs.items()}
    bootstrap = Bootstrap(len(test), len(s.seeds))
    groups = {"all": [*OTHER_CLASSES, *RARE_CLASSES], "rare": RARE_CLASSES, "others": OTHER_CLASSES}
    groups |= {NAMES[name]: [number] for name, number in zip(RARE, RARE_CLASSES)}
    scores = {m: {name: bootstrap.score(counts[m], group) for name, group in groups.items()} for m in METHODS}
    gain = {name: scores[TOKENS][name] - scores[PLAIN][name] for name in groups}
    rows = [[name, *(percent(scores[m][name]) for m in METHODS), parsing_arms.points(gain[name])] for name in groups]
    shown = zip(NAMES.values(), shares(train), shares(test))
    weights = " and ".join(f"{runs[m][0]['weights'] / 1e3:.0f} k ({m})" for m in METHODS)
    return [
        f"{len(train)} training and {len(test)} test pictures of {s.size} px; {s.steps} steps of {s.batch_size}; "
        f"{len(s.seeds)} seed{'s' * (len(s.seeds) != 1)}. Weights of the heads: {weights}.",
        "",
        "Pictures that show a class (%):",
        "",
        *common.table(["", "training", "test"], [[name, f"{100 * a:.1f}", f"{100 * b:.1f}"] for name, a, b in shown]),
        "",
        "F1 (%) of the test pictures together, without background, and the difference in points; in brackets the range",
        "of 95 % of the resamples of pictures and seeds.",
        "",
        *common.table(["classes", *METHODS, "difference"], rows),
        "",
        verdict("class tokens find the rare classes better", gain["rare"]),
        verdict("by 3 points or more", gain["rare"], 0.03),
        verdict("the other classes lose 0.3 points at most", gain["others"], -0.003),
    ]


def main() -> None:
    args = common.options(__doc__, quick="under a minute; says nothing about the claim").parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    train, test = (crops(faces, s.size) for faces in parsing_arms.load_faces(quick=args.quick))
    kept = made_rare(train[1], RARE_CLASSES, s.rare, seed=0)
    train = train[0][kept], train[1][kept]
    arms = common.Arms(common.arms_file(args, SLUG), s, len(METHODS) * len(s.seeds))
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for seed in s.seeds:
        for method in METHODS:
            runs[method].append(arms.run(f"{method}, seed {seed}", arm, train, test, s, method, seed))
    lines = [
        "# SegFace: class tokens and rare classes",
        "",
        "Made by `python -m reproductions.segface.run --write`. Two parsers with one backbone and one fusion, trained",
        "from scratch on the same batches of rendered faces: one with SegFace's decoder, one with convolutions in its",
        "place. No test person was trained on.",
        "",
        *report(s, runs, train[1], test[1]),
    ]
    common.finish(args, SLUG, lines)


if __name__ == "__main__":
    main()
