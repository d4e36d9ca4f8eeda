"""Whether a light SegFormer keeps up with an FPN on whole portraits, and what resolution does to small classes.

    python -m reproductions.easyportrait.run [--quick] [--write]

Needs the backgrounds and the face model of the labelled collections (FACEWRIGHT_DATA) and a quarter of an hour on two
processor cores, once the faces are rendered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facewright.losses.segmentation import pixel_cross_entropy
from facewright.nn.resnet import BasicBlock, ResNet
from facewright.systems.parse.easyportrait.network import FPN_WIDTH, EasyPortrait, EasyPortraitConfig, SemanticFPN
from facewright.systems.parse.parser import resized
from facewright.systems.parse.taxonomy import CELEBAMASK_19, EASYPORTRAIT_9, conversion

from .. import common, parsing_arms
from ..parsing_arms import Bootstrap, Faces, iou, percent, points, verdict

if TYPE_CHECKING:
    from ..parsing_arms import Images, Samples

SLUG = "easyportrait"
SEGFORMER, FPN = "SegFormer", "FPN"
TO_EASYPORTRAIT = conversion(CELEBAMASK_19, EASYPORTRAIT_9)
KNOWN = [i for i, name in enumerate(EASYPORTRAIT_9) if name != "teeth"]  # the labels do not tell teeth from the mouth
SMALL = [i for i, name in enumerate(EASYPORTRAIT_9) if name.endswith(("brow", "eye"))]
TRUNK_WIDTH, TRUNK_BLOCKS = 32, (2, 2, 2, 2)
TIMED = 20


@dataclass(frozen=True)
class Settings:
    """Pictures of `small` and of `large` px."""

    small: int = 64
    large: int = 128
    batch_size: int = 8
    steps: int = 700
    lr: float = 2e-3
    seeds: tuple[int, ...] = (0, 1)

    @classmethod
    def quick(cls) -> Settings:
        return cls(small=32, large=64, batch_size=4, steps=20, seeds=(0,))

    def arms(self) -> tuple[tuple[str, int], ...]:
        return ((SEGFORMER, self.small), (SEGFORMER, self.large), (FPN, self.large))


def parser(network: str, size: int, seed: int) -> EasyPortrait:
    """The compact SegFormer, or the published FPN's pyramid and head on a ResNet-18 of half the width."""
    torch.manual_seed(seed)
    if network == SEGFORMER:
        return EasyPortrait(EasyPortraitConfig(size=size, network="segformer_tiny"))
    model = EasyPortrait(EasyPortraitConfig(size=size, network="fpn_resnet50"))
    assert isinstance(model.net, SemanticFPN)
    model.net.backbone = ResNet(BasicBlock, TRUNK_BLOCKS, width=TRUNK_WIDTH)
    model.net.laterals = nn.ModuleList(nn.Conv2d(TRUNK_WIDTH * 2**i, FPN_WIDTH, 1) for i in range(4))
    return model


def reduced(faces: Faces, size: int) -> tuple[Images, Images]:
    """Whole pictures (N, S, S, 3) and their labels of 19 classes (N, S, S)."""
    images = np.stack([resized(image, size, size) for image in faces.images])
    labels = [cv2.resize(known, (size, size), interpolation=cv2.INTER_NEAREST_EXACT) for known in faces.labels]
    return images, np.stack(labels).astype(np.uint8)


def arm(train: Faces, test: Faces, s: Settings, network: str, size: int, seed: int) -> dict[str, Any]:
    model = parser(network, size, seed)
    order = common.Epochs(len(train), s.batch_size, seed)
    rng = np.random.default_rng(seed)
    pictures, known = reduced(train, size)

    def loss_of(number: int) -> Tensor:
        chosen = order.batch(number)
        images, labels = parsing_arms.augmented(pictures[chosen], known[chosen], size // 8, rng)
        with parsing_arms.half():
            logits = model(model.normalise(images))
        return pixel_cross_entropy(logits, torch.from_numpy(TO_EASYPORTRAIT[labels]))

    parsing_arms.train(f"{network}, {size} px, seed {seed}", model, loss_of, s.steps, s.lr)
    counts = parsing_arms.counted(EASYPORTRAIT_9, TO_EASYPORTRAIT[test.labels], model.parse(test.images))
    scores = iou(np.sum(counts, 0, dtype=np.float64))
    return {
        "mIoU": float(np.nanmean(scores[KNOWN])),
        "milliseconds": milliseconds(model, test.images[:TIMED]),
        "weights": sum(weight.numel() for weight in model.parameters()),
        "counts": counts,
    }


def milliseconds(model: EasyPortrait, images: Images) -> float:
    """The median time of one picture."""
    spent = []
    for image in images:
        began = time.perf_counter()
        model.parse(image[None])
        spent.append(time.perf_counter() - began)
    return 1000 * float(np.median(spent))


# --- report


def report(s: Settings, runs: dict[tuple[str, int], list[dict[str, Any]]], pictures: int) -> list[str]:
    bootstrap = Bootstrap(pictures, len(s.seeds))
    counts = {which: np.array([r["counts"] for r in results]) for which, results in runs.items()}

    def score(which: tuple[str, int], classes: list[int]) -> Samples:
        return bootstrap.score(counts[which], classes, iou)

    rows = []
    for which, results in runs.items():
        cost = [f"{results[0]['weights'] / 1e6:.2f}", f"{np.median([r['milliseconds'] for r in results]):.0f}"]
        rows.append([f"{which[0]}, {which[1]} px", *cost, percent(score(which, KNOWN)), percent(score(which, SMALL))])
    by_class = [[EASYPORTRAIT_9[number], *(percent(score(which, [number])) for which in runs)] for number in KNOWN]
    coarse, fine, fpn = s.arms()
    share = runs[fine][0]["weights"] / runs[fpn][0]["weights"]
    return [
        f"{pictures} test pictures, parsed at the size they are labelled in; {s.steps} steps of {s.batch_size}; "
        f"{len(s.seeds)} seed{'s' * (len(s.seeds) != 1)}.",
        "Mean IoU (%) of the eight classes with background, and of brows and eyes alone; in brackets the range of 95 %",
        "of the resamples of pictures and seeds. The time is that of one whole picture on the machine of the run.",
        "",
        *common.table(["", "weights (M)", "ms a picture", "mean IoU", "brows and eyes"], rows),
        "",
        *common.table(["IoU (%)", *(f"{network}, {size} px" for network, size in runs)], by_class),
        "",
        f"At {s.large} px the SegFormer has {share:.2f} times the weights of the FPN, and differs from it by "
        f"{points(score(fine, KNOWN) - score(fpn, KNOWN))} points, on brows and eyes by "
        f"{points(score(fine, SMALL) - score(fpn, SMALL))}.",
        "",
        verdict(
            f"at {s.large} px the SegFormer loses a point of mean IoU at most to the FPN",
            score(fine, KNOWN) - score(fpn, KNOWN),
            -0.01,
        ),
        verdict(
            f"{s.large} px instead of {s.small} give the SegFormer 3 points or more",
            score(fine, KNOWN) - score(coarse, KNOWN),
            0.03,
        ),
        verdict("and brows and eyes 6 points or more", score(fine, SMALL) - score(coarse, SMALL), 0.06),
    ]


def main() -> None:
    args = common.options(__doc__, quick="under a minute; says nothing about the claim").parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    train, test = parsing_arms.load_faces(quick=args.quick)
    arms = common.Arms(common.arms_file(args, SLUG), s, len(s.arms()) * len(s.seeds))
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {which: [] for which in s.arms()}
    for seed in s.seeds:
        for network, size in s.arms():
            name = f"{network}, {size} px, seed {seed}"
            runs[network, size].append(arms.run(name, arm, train, test, s, network, size, seed))
    lines = [
        "# EasyPortrait: a light SegFormer, an FPN, and resolution",
        "",
        "Made by `python -m reproductions.easyportrait.run --write`. Small relatives of two published baselines,",
        "trained from scratch on whole rendered portraits, without alignment. The labels are converted from the 19",
        "classes of CelebAMask-HQ, which do not tell teeth from the rest of the mouth, so that eight classes remain.",
        "No test person was trained on.",
        "",
        *report(s, runs, len(test)),
    ]
    common.finish(args, SLUG, lines)


if __name__ == "__main__":
    main()
