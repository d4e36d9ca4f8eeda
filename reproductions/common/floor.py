"""The floor of the recognition reproductions: one set of pictures, people and pairs, one small trainer, one judge.

All of them train small networks from scratch on people of LFW (64 px crops) and judge them on other people of LFW, so
that their tables compare losses and nothing else. Seeds are fixed; nothing here depends on the loss.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facewright.data.detection import five_points
from facewright.data.faces import open_faces
from facewright.data.identity import cached_crops, people_numbers
from facewright.data.pairs import Pairs, exhaustive_pairs
from facewright.geometry.crop import CropSpec
from facewright.geometry.resample import crop_by_matrix, crop_face
from facewright.metrics.verification import fold_accuracy, roc, squared_distances
from facewright.nn.resnet import BasicBlock, ResNet

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 64
BOXED = CropSpec.boxed(SIZE, margin=0.1)
SHIFT = 4  # px a training crop is moved at most
MOMENTUM = 0.9
CLIP = 5.0
WARM_UP = 0.05  # of all steps

M = TypeVar("M", bound=nn.Module)
Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


# --- pictures and people


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Crops (N, 64, 64, 3) uint8 RGB and the number of each one's person, (N,)."""

    images: Images
    people: Indices

    def of_people(self, least: int, most: int | None = None) -> Indices:
        """Indices of all pictures of people with `least` to `most` pictures."""
        counts = np.bincount(self.people)[self.people]
        return np.flatnonzero((counts >= least) & (counts <= (most or len(self.people))))

    def some_people(self, indices: Indices, count: int, seed: int) -> Indices:
        """Those of `indices` that belong to `count` people drawn from theirs."""
        names = np.unique(self.people[indices])
        chosen = np.random.default_rng(seed).permutation(names)[:count]
        return indices[np.isin(self.people[indices], chosen)]

    def numbered(self, indices: Indices) -> Indices:
        """The people of `indices` as labels 0, 1, 2, …"""
        return np.unique(self.people[indices], return_inverse=True)[1].astype(np.int64)


def load_faces(kind: Literal["aligned", "box"]) -> Faces:
    """All people of LFW, on the ArcFace template or cut from the detector's box alone; prepared on first use."""
    collection = open_faces("lfw")
    crop = _aligned if kind == "aligned" else _boxed

    def cut(image: Images, row: int) -> Images:
        return crop(image, collection.labels, row)

    images = cached_crops(f"lfw-floor-{kind}-{SIZE}", collection, SIZE, cut)
    return Faces(np.array(images), people_numbers(collection))


def _aligned(image: Images, labels: dict[str, Any], row: int) -> Images:
    return crop_face(image, five_points(labels["landmarks68"][row].astype(np.float64)), SIZE, "arcface").image


def _boxed(image: Images, labels: dict[str, Any], row: int) -> Images:
    x, y, width, height = labels["box_xywh"][row].astype(np.float64)
    return crop_by_matrix(image, BOXED.around(np.array([x, y, x + width, y + height])), SIZE, "").image


def verification_pairs(faces: Faces, indices: Indices, per_fold: int, seed: int = 0) -> Pairs:
    """Up to `per_fold` pairs a fold among the pictures `indices`, in ten folds with people of their own."""
    return exhaustive_pairs(faces.people, indices, per_fold=per_fold, seed=seed)


# --- training


class FloorNet(nn.Module):
    """A thin ResNet-10, (N, 3, 64, 64) in [−1, 1] to embeddings (N, dim): about 20 M multiply-adds."""

    def __init__(self, dim: int = 128, width: int = 32) -> None:
        super().__init__()
        self.trunk = ResNet(BasicBlock, (1, 1, 1, 1), width=width)
        self.embedding = nn.Linear(self.trunk.out_features, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.norm(self.embedding(self.trunk(x)))
        return embedding


def signed(images: Images) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [−1, 1], channels last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def channels_last(network: M) -> M:
    """The network itself, its weights laid out for fast convolutions on a processor."""
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def augmented(images: Images, rng: np.random.Generator) -> Images:
    """Every crop mirrored or not, and moved by up to `SHIFT` pixels."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    out = np.empty_like(images)
    for i, (y, x) in enumerate(rng.integers(0, 2 * SHIFT + 1, (len(images), 2))):
        crop = padded[i, y : y + images.shape[1], x : x + images.shape[2]]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return out


def half() -> torch.autocast:
    """bfloat16 arithmetic where it is safe."""
    return torch.autocast("cpu", torch.bfloat16)


def train(
    name: str,
    groups: list[dict[str, Any]],
    step: Callable[[int], Tensor],
    steps: int,
    *,
    after: Callable[[int], None] | None = None,
) -> None:
    """SGD over parameter groups that name their `lr` and `weight_decay`: warm-up, then a cosine down to 0.

    `step(number)` gives the loss; `after(steps done)` is called between the steps.
    """
    optimiser = torch.optim.SGD(groups, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda number: _rate(number / steps))
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    began, shown = time.monotonic(), 0.0
    for number in range(steps):
        loss = step(number)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()
        schedule.step()
        if after is not None:
            after(number + 1)
        seconds = time.monotonic() - began
        if seconds > shown + 20:
            shown = seconds
            left = seconds / (number + 1) * (steps - number - 1)
            print(f"    {name}: {number + 1}/{steps}, loss {float(loss.detach()):.3f}, {left:.0f} s left", flush=True)


def _rate(progress: float) -> float:
    if progress < WARM_UP:
        return (progress + 0.01) / (WARM_UP + 0.01)
    return 0.5 * (1 + float(np.cos(np.pi * (progress - WARM_UP) / (1 - WARM_UP))))


def decayed(network: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a network: decay on matrices and kernels, none on norms and biases."""
    weights = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], "lr": lr, "weight_decay": decay},
        {"params": [p for p in weights if p.dim() <= 1], "lr": lr, "weight_decay": 0.0},
    ]


class Epochs:
    """Shuffled batches of indices, epoch after epoch; the last incomplete batch of an epoch is dropped."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.size, self.seed = count, batch, seed
        self.per_epoch = count // batch

    def batch(self, number: int) -> Indices:
        epoch, place = divmod(number, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return order[place * self.size : (place + 1) * self.size]


# --- judging


@torch.inference_mode()
def run(
    network: Callable[[Tensor], Tensor],
    prepare: Callable[[Images], Tensor],
    images: Images,
    *,
    mirror: bool = True,
) -> NDArray[np.float64]:
    """Outputs of a network, averaged with those of the mirror image if asked, (N, D); `prepare` makes its input."""
    rows = []
    for start in range(0, len(images), 256):
        x = prepare(images[start : start + 256]).contiguous(memory_format=torch.channels_last)
        with half():
            out = network(x).float()
            rows.append(((out + network(x.flip(3)).float()) / 2 if mirror else out).numpy())
    return np.concatenate(rows).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Verification:
    """Ten-fold accuracy, area under the ROC curve and share of genuine pairs accepted at 1 % false matches."""

    accuracy: float
    auc: float
    tar: float

    @classmethod
    def of(cls, embeddings: NDArray[np.float64], pairs: Pairs, *, unit: bool = True) -> Verification:
        """Judge embeddings (N, D), numbered as `pairs` numbers pictures; by angle, or by distance if not `unit`."""
        a, b = embeddings[pairs.first], embeddings[pairs.second]
        distance = squared_distances(a, b) if unit else ((a - b) ** 2).sum(1)
        grid = np.linspace(0, np.quantile(distance, 0.999), 1000)
        curve = roc(-distance, pairs.same)
        accuracy = fold_accuracy(distance, pairs.same, thresholds=grid).mean
        return cls(accuracy, curve.auc, curve.tar_at(0.01))


def spread_out(faces: Faces, used: Indices, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows for all pictures of `faces`: `values` at `used`, NaN elsewhere, so that pair indices stay valid."""
    full = np.full((len(faces.people), values.shape[1]), np.nan)
    full[used] = values
    return full


# --- running


class Arms:
    """The arms of a comparison: each is run once, logged, and remembered, so that a stopped run goes on where it was.

    Results are kept as JSON beside the settings they were made with; other settings start afresh.
    """

    def __init__(self, path: Path, settings: Any, total: int) -> None:
        self.path, self.total = path, total
        self.settings = json.loads(json.dumps(asdict(settings)))
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["settings"] == self.settings:
                self.done = stored["arms"]
        self.began, self.at_start = time.monotonic(), len(self.done)
        if self.done:
            print(f"{len(self.done)} of {total} arms were finished before, see {path}", flush=True)

    def run(self, name: str, work: Callable[..., dict[str, Any]], *inputs: Any) -> dict[str, Any]:
        """The results of an arm: those remembered, or else what `work` makes of `inputs`."""
        if name not in self.done:
            began = time.monotonic()
            print(f"[{len(self.done) + 1}/{self.total}] {name}", flush=True)
            result = work(*inputs) | {"seconds": round(time.monotonic() - began, 1)}
            self.done[name] = result
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"settings": self.settings, "arms": self.done}, indent=1)
            self.path.write_text(text + "\n", encoding="utf-8")
            self._log(result)
        return self.done[name]

    def _log(self, result: dict[str, Any]) -> None:
        spent = time.monotonic() - self.began
        each = spent / (len(self.done) - self.at_start)
        left = each * (self.total - len(self.done))
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, float))
        estimate = f"estimated total {each * self.total / 60:.1f} min, {left / 60:.1f} min left"
        print(f"    {numbers}\n    {estimate}", flush=True)


def options(description: str | None) -> argparse.ArgumentParser:
    """The options every reproduction has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="minutes instead of half an hour; says nothing about the claim"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/reproductions"), help="folder of finished arms")
    parser.add_argument("--write", type=Path, help="file of the table (default: the docs; nothing with --quick)")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 leaves torch's choice")
    return parser


def begin(args: argparse.Namespace) -> None:
    """Threads and seeds."""
    cv2.setNumThreads(1)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)


def finish(args: argparse.Namespace, slug: str, lines: list[str]) -> None:
    """Print a report and write it where it belongs."""
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    target = args.write or (None if args.quick else Path("docs/results") / f"{slug}.md")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def arms_file(args: argparse.Namespace, slug: str) -> Path:
    return Path(args.work) / f"{slug}{'-quick' if args.quick else ''}.json"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def mean_std(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation of runs, in percent."""
    array = scale * np.asarray(values)
    spread = f" ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else ""
    return f"{array.mean():.{digits}f}{spread}"


def verdict(name: str, holds: bool, numbers: str) -> str:
    """One line of a claim's outcome."""
    return f"- {'**holds**' if holds else '**does not hold**'}: {name} ({numbers})"
