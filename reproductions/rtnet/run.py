"""Whether the tanh-polar view bears a wrong box better than a plain crop of it, and keeps the hair.

    python -m reproductions.rtnet.run [--quick] [--write]

Needs the backgrounds and the face model of the labelled collections (FACEWRIGHT_DATA) and a quarter of an hour on two
processor cores, once the faces are rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facewright.data.parsing import mirror_pair
from facewright.losses.segmentation import pixel_cross_entropy
from facewright.nn.tanh_polar import polar_grid, polar_restore
from facewright.systems.parse.rtnet.network import HybridBlock, MixedPad, RTNet, RTNetConfig
from facewright.systems.parse.taxonomy import CELEBAMASK_19, IBUG_11, conversion

from .. import common, parsing_arms
from ..parsing_arms import Bootstrap, Faces, percent, points, verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..parsing_arms import Images, Samples

SLUG = "rtnet"
POLAR, CROP, WIDE = "tanh-polar view", "crop of the box", "crop of twice the box"
METHODS = (POLAR, CROP, WIDE)
REACH = {CROP: 1.0, WIDE: 2.0}  # half sides of the box from its middle to the edge of a crop
HAIR = IBUG_11.index("hair")
FOREGROUND = range(1, len(IBUG_11))
TO_IBUG = conversion(CELEBAMASK_19, IBUG_11)
ERRORS = (0.0, 0.1, 0.2)  # of the box's sides
LARGE_YAW = 30.0  # degrees
JUDGED_TOGETHER = 8


@dataclass(frozen=True)
class Settings:
    """Views of `size`; training boxes are wrong by up to `wrong` of their sides."""

    size: int = 129
    width: int = 16
    wrong: float = 0.1
    batch_size: int = 8
    steps: int = 500
    lr: float = 2e-3
    seeds: tuple[int, ...] = (0, 1)

    @classmethod
    def quick(cls) -> Settings:
        return cls(size=65, width=8, batch_size=4, steps=20, seeds=(0,))


# --- boxes and views


def wrong_boxes(
    boxes: NDArray[np.float64], by: float | NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Boxes (N, 4) moved by that share of their sides in a random direction, and larger or smaller by as much."""
    shares = np.broadcast_to(by, len(boxes))[:, None]
    sides = boxes[:, 2:] - boxes[:, :2]
    direction = rng.uniform(0, 2 * np.pi, len(boxes))
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 + shares * sides * np.stack([np.cos(direction), np.sin(direction)], 1)
    half = sides / 2 * (1 + shares) ** rng.choice([-1, 1], (len(boxes), 1))
    return np.concatenate([middle - half, middle + half], 1)


def seen(method: str, photos: Tensor, boxes: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """The views (N, C, S, S) of photos (N, C, H, W) a method takes; 0 outside the photos."""
    if method == POLAR:
        grid = polar_grid(boxes, size, size, photos.shape[2:])
        return F.grid_sample(photos, grid, mode, align_corners=True)
    scale, shift = _crop(boxes, REACH[method], photos.shape[2], photos.shape[3])
    return _moved(photos, scale, shift, (size, size), mode)


def restored(method: str, views: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Photos (N, C, height, width) of what the views show, 0 where they do not reach."""
    if method == POLAR:
        return polar_restore(views, boxes, height, width)
    scale, shift = _crop(boxes, REACH[method], height, width)
    return _moved(views, 1 / scale, -shift / scale, (height, width), "bilinear")


def _crop(boxes: Tensor, reach: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Half sides and middle (N, 2) of a crop where the photo reaches from −1 to 1."""
    sides = boxes.new_tensor([width, height])
    middle = (boxes[:, :2] + boxes[:, 2:] + 1) / 2
    return (boxes[:, 2:] - boxes[:, :2]) * reach / sides, middle * 2 / sides - 1


def _moved(images: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    matrix = torch.cat([torch.diag_embed(scale), shift[:, :, None]], 2)
    grid = F.affine_grid(matrix, [len(images), images.shape[1], *size], align_corners=False)
    return F.grid_sample(images, grid, mode, align_corners=False)


# --- arms


def parser(method: str, s: Settings, seed: int) -> RTNet:
    """A new RTNet; for crops the same trunk with all convolutions in the crop and zeros around it."""
    torch.manual_seed(seed)
    model = RTNet(RTNetConfig(size=s.size, width=s.width))
    if method != POLAR:
        for block in model.modules():
            if isinstance(block, HybridBlock):
                block.hybrid = False
                pad = block.polar[0]
                assert isinstance(pad, MixedPad)
                block.polar[0] = nn.ZeroPad2d(pad.width)
    return model


def mirrored_pictures(
    images: Images, labels: Images, boxes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Images, Images, NDArray[np.float64]]:
    """Every second picture, by chance, mirrored with its labels of 19 classes and its box."""
    turned = rng.random(len(images)) < 0.5
    pairs = [mirror_pair(a, b) if flip else (a, b) for a, b, flip in zip(images, labels, turned)]
    flipped = images.shape[2] - 1 - boxes[:, [2, 1, 0, 3]]
    flipped[:, [1, 3]] = boxes[:, [1, 3]]
    boxes = np.where(turned[:, None], flipped, boxes)
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]), boxes


def logits_of(model: RTNet, views: Tensor, boxes: Tensor) -> Tensor:
    """Logits of views (N, 3, S, S) of RGB photos, 0..255."""
    with parsing_arms.half():
        logits: Tensor = model((views / 127.5 - 1).flip(1).contiguous(memory_format=torch.channels_last), boxes)
    return logits.float()


def as_tensors(images: Images, boxes: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float(), torch.from_numpy(boxes).float()


def arm(train: Faces, test: Faces, s: Settings, method: str, seed: int) -> dict[str, Any]:
    model = parser(method, s, seed)
    order = common.Epochs(len(train), s.batch_size, seed)
    rng = np.random.default_rng(seed)

    def loss_of(number: int) -> Tensor:
        part = train[order.batch(number)]
        images, labels, boxes = mirrored_pictures(part.images, part.labels, part.boxes, rng)
        photos, around = as_tensors(images, wrong_boxes(boxes, rng.uniform(0, s.wrong, len(boxes)), rng))
        targets = torch.from_numpy(TO_IBUG[labels])[:, None].float()
        wanted = seen(method, targets, around, s.size, "nearest")[:, 0].long()
        return pixel_cross_entropy(logits_of(model, seen(method, photos, around, s.size), around), wanted)

    parsing_arms.train(f"{method}, seed {seed}", model, loss_of, s.steps, s.lr)
    labels = TO_IBUG[test.labels]
    counts = {}
    for by in ERRORS:  # the same wrong boxes for every method and seed
        boxes = wrong_boxes(test.boxes, by, np.random.default_rng(round(1000 * by)))
        counts[f"{by}"] = parsing_arms.counted(IBUG_11, labels, parsed(model, method, test.images, boxes, s.size))
    scores = parsing_arms.f1(np.sum(counts["0.0"], 0, dtype=np.float64))
    return {"F1": float(np.nanmean(scores[1:])), "hair F1": float(scores[HAIR]), "counts": counts}


@torch.inference_mode()
def parsed(model: RTNet, method: str, images: Images, boxes: NDArray[np.float64], size: int) -> Images:
    """Labels (N, H, W) of the photos; what a view does not reach is background."""
    maps = []
    for start in range(0, len(images), JUDGED_TOGETHER):
        part = slice(start, start + JUDGED_TOGETHER)
        photos, around = as_tensors(images[part], boxes[part])
        shown = logits_of(model, seen(method, photos, around, size), around).softmax(1)
        shown[:, 0] = 1 - shown[:, 0]  # so that 0, what lies outside the view, comes to mean background
        scores = restored(method, shown, around, *photos.shape[2:])
        scores[:, 0] = 1 - scores[:, 0]
        maps.append(scores.argmax(1).to(torch.uint8).numpy())
    return np.concatenate(maps)


# --- report


def report(s: Settings, runs: dict[str, list[dict[str, Any]]], test: Faces) -> list[str]:
    counts = {
        method: {by: np.array([r["counts"][f"{by}"] for r in results]) for by in ERRORS}
        for method, results in runs.items()
    }
    turned = np.abs(test.yaw) >= LARGE_YAW
    everything = Bootstrap(len(test), len(s.seeds))
    by_pose = {False: Bootstrap(int((~turned).sum()), len(s.seeds)), True: Bootstrap(int(turned.sum()), len(s.seeds))}

    def scores(method: str, by: float, large: bool | None = None) -> Samples:
        chosen = counts[method][by]
        if large is None:
            return everything.score(chosen, FOREGROUND)
        return by_pose[large].score(chosen[:, turned == large], FOREGROUND)

    def hair(method: str, by: float) -> Samples:
        return everything.score(counts[method][by], [HAIR])

    box_rows = [
        [
            kind,
            f"{100 * by:.0f} %",
            *(percent(of(m, by)) for m in METHODS),
            *(points(of(POLAR, by) - of(m, by)) for m in REACH),
        ]
        for kind, of in (("all", scores), ("hair", hair))
        for by in ERRORS
    ]
    pose_rows = [
        [name, f"{100 * by:.0f} %", *(percent(scores(m, by, large)) for m in METHODS)]
        + [points(scores(POLAR, by, large) - scores(m, by, large)) for m in REACH]
        for name, large in ((f"under {LARGE_YAW:g}°", False), (f"{LARGE_YAW:g}° and more", True))
        for by in (ERRORS[0], ERRORS[-1])
    ]
    lost = {m: scores(m, ERRORS[0]) - scores(m, ERRORS[-1]) for m in METHODS}
    verdicts = []
    for rival in REACH:
        verdicts += [
            verdict(f"against the {rival}, a box wrong by 20 % costs less", lost[rival] - lost[POLAR]),
            verdict(f"against the {rival}, hair is better with the true box", hair(POLAR, 0.0) - hair(rival, 0.0)),
            verdict(
                f"against the {rival}, faces turned by {LARGE_YAW:g}° and more are better with the true box",
                scores(POLAR, 0.0, True) - scores(rival, 0.0, True),
            ),
        ]
    differences = [f"over the {rival}" for rival in REACH]
    return [
        f"{len(test)} test pictures, {int(turned.sum())} of them turned by {LARGE_YAW:g}° and more;",
        f"views of {s.size} px; {s.steps} steps of {s.batch_size}; {len(s.seeds)} seed{'s' * (len(s.seeds) != 1)}.",
        "",
        "F1 (%) in the photo, mean of the classes without background; in brackets the range of 95 % of the resamples",
        "of pictures and seeds. Last come the differences of the tanh-polar view in points.",
        "",
        *common.table(["classes", "box wrong by", *METHODS, *differences], box_rows),
        "",
        "By yaw, all classes:",
        "",
        *common.table(["yaw", "box wrong by", *METHODS, *differences], pose_rows),
        "",
        "What a box wrong by 20 % costs, in points: "
        + "; ".join(f"{method} {points(-samples)}" for method, samples in lost.items())
        + ".",
        "",
        *verdicts,
    ]


def main() -> None:
    args = common.options(__doc__, quick="under a minute; says nothing about the claim").parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    train, test = parsing_arms.load_faces(quick=args.quick)
    arms = common.Arms(common.arms_file(args, SLUG), s, len(METHODS) * len(s.seeds))
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for seed in s.seeds:
        for method in METHODS:
            runs[method].append(arms.run(f"{method}, seed {seed}", arm, train, test, s, method, seed))
    lines = [
        "# RTNet: the tanh-polar view and wrong boxes",
        "",
        "Made by `python -m reproductions.rtnet.run --write`. A compact RTNet on the tanh-polar view of a box, and",
        "the same trunk on plain crops of the same box, trained from scratch on the same rendered photos with boxes",
        "that are wrong by up to 10 %. No test person was trained on.",
        "",
        *report(s, runs, test),
    ]
    common.finish(args, SLUG, lines)


if __name__ == "__main__":
    main()
