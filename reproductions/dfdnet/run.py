"""What the component dictionaries of DFDNet are worth: the same decoder without them, with one atom, and with many.

    python -m reproductions.dfdnet.run [--quick]

Small decoders on 96 px crops of LFW, in the frozen features of the embedded recogniser. Needs the labelled face
collections (FACEWRIGHT_DATA) and half an hour on two processor cores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from facewright import create
from facewright.data.detection import five_points
from facewright.data.restoration import CropCache, open_crops
from facewright.degrade import apply, sample, target
from facewright.geometry.crop import align_matrix
from facewright.geometry.resample import recut
from facewright.losses.reconstruction import charbonnier
from facewright.metrics import psnr
from facewright.metrics.uncertainty import Estimate, bootstrap
from facewright.nn.inference import has_bf16
from facewright.systems.base import batches
from facewright.systems.restore.dfdnet.network import (
    REDUCTIONS,
    DFDNet,
    DFDNetConfig,
    build_dictionaries,
    component_boxes,
)

from .. import common
from ..common import Arms, Images, Indices

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLUG = "dfdnet"
TITLE = "DFDNet: what the component dictionaries are worth"
SIZE = 96
SHAPE = DFDNetConfig(size=SIZE, features="sface", width=16, atoms=0, part_sizes=(15, 15, 9, 21))
FEATURE_WEIGHT = 0.1
ALLOWED_LOSS = 0.3  # dB of the whole crop
NOTHING, INPUT, RANDOM = "no transfer", "damaged picture", "random atom of 32"
ONE, FEW, MANY = "1 atom", "8 atoms", "32 atoms"
ATOMS = {NOTHING: 1, ONE: 1, FEW: 8, MANY: 32, RANDOM: 32}
MEASURES = {
    "features": "distance of features, components",
    "identity": "identity, components",
    "psnr_components": "PSNR, components, dB",
    "psnr": "PSNR, dB",
}


@dataclass(frozen=True)
class Settings:
    """`dictionary_faces`: what the atoms are clustered from; `test_faces`: one of each person."""

    steps: int = 400
    batch_size: int = 8
    lr: float = 5e-4
    dictionary_faces: int = 2000
    test_faces: int = 200

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=20, dictionary_faces=50, test_faces=16)


# --- arms


class WithoutTransfer(DFDNet):
    """The same network with its components left as they are."""

    def _transfer(self, features: Tensor, level: int, boxes: NDArray[np.int64]) -> tuple[Tensor, list[Tensor]]:
        return features, []


class RandomAtom(DFDNet):
    """The same network with an atom drawn at random for every component in place of the best one."""

    def _choose(self, query: Tensor, atoms: Tensor) -> Tensor:
        return torch.randint(len(atoms), (len(query),))


KINDS = {NOTHING: WithoutTransfer, RANDOM: RandomAtom}


# --- pictures


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Aligned crops of a split with the boxes of their components, (N, 4, 4), from the labelled landmarks."""

    crops: CropCache
    boxes: Indices

    @classmethod
    def of(cls, split: Literal["train", "val"]) -> Faces:
        crops = open_crops("lfw", split, SIZE)
        points = np.asarray(crops.collection.labels["landmarks68"], np.float64)[crops.rows]
        moved = [cv2.transform(p[None], align_matrix(five_points(p), SIZE))[0] for p in points]
        return cls(crops, component_boxes(np.stack(moved), SIZE))

    def spread(self, count: int) -> Indices:
        """About `count` indices, evenly over the collection."""
        return np.unique(np.linspace(0, len(self.boxes) - 1, count).astype(np.int64))

    def one_each(self, count: int) -> Indices:
        """The first pictures of `count` people."""
        people = np.asarray(self.crops.collection.labels["subject"])[self.crops.rows]
        first = np.unique(people, return_index=True)[1]
        return np.sort(np.random.default_rng(0).permutation(first)[:count])


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Damaged and true crops (N, S, S, 3) uint8 RGB, where they show real pixels (N, S, S), and boxes (N, 4, 4)."""

    damaged: Images
    true: Images
    valid: NDArray[np.bool_]
    boxes: Indices

    @classmethod
    def of(cls, faces: Faces, indices: Indices, rng: np.random.Generator, *, mirror: bool) -> Pairs:
        """Damage as the paper's, its lengths in pixels of these small crops: a half to a tenth of them is left."""
        damaged, true, valid, boxes = [], [], [], []
        for index in indices:
            crop, mask = faces.crops.crop(int(index))
            where = faces.boxes[index]
            if mirror and rng.random() < 0.5:
                crop, mask, where = np.ascontiguousarray(crop[:, ::-1]), mask[:, ::-1], mirrored(where)
            record = sample("dfdnet", rng, SIZE)
            damaged.append(apply(crop, record))
            true.append(target(crop, record))
            valid.append(mask)
            boxes.append(where)
        return cls(np.stack(damaged), np.stack(true), np.stack(valid), np.stack(boxes))

    def inside(self) -> NDArray[np.bool_]:
        """Which pixels belong to a component, (N, S, S)."""
        found = np.zeros(self.valid.shape, bool)
        for here, boxes in zip(found, self.boxes):
            for x0, y0, x1, y1 in boxes.clip(0):
                here[y0:y1, x0:x1] = True
        return found


def mirrored(boxes: Indices) -> Indices:
    """Boxes (4, 4) in the mirror image, where the eyes have changed places."""
    x0, y0, x1, y1 = boxes[[1, 0, 2, 3]].T
    return np.stack([SIZE - x1, y0, SIZE - x0, y1], 1)


# --- training


@cache
def features() -> dict[str, Tensor]:
    """The frozen feature network."""
    recogniser: Any = create("distilledface", pretrained=True)
    state: dict[str, Tensor] = recogniser.backbone.state_dict()
    return state


@cache
def dictionaries(faces: Faces, count: int, atoms: int) -> dict[str, Tensor]:
    """So many atoms from the undamaged components of `count` training faces."""
    network = fresh(DFDNet)
    groups = batches(faces.spread(count).tolist(), 50)
    good = ((np.stack([faces.crops.crop(i)[0] for i in some]), faces.boxes[some]) for some in groups)
    return build_dictionaries(network, good, atoms)


def fresh(kind: type[DFDNet]) -> DFDNet:
    """A network without dictionaries; all kinds have the same first weights."""
    torch.manual_seed(0)
    network = kind(SHAPE).eval()
    network.extractor.network.load_state_dict(features())
    return network


def train(name: str, network: DFDNet, faces: Faces, s: Settings) -> None:
    """Adam with a cosine; pictures and damage are the same for every network."""
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], s.lr, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s.steps)
    order, rng = common.Epochs(len(faces.boxes), s.batch_size, seed=1), np.random.default_rng(1)
    network.train()
    for number in range(s.steps):
        pairs = Pairs.of(faces, order.batch(number), rng, mirror=True)
        # one power iteration of the spectral norms a step, not one for every component
        with half(), parametrize.cached():
            value = loss(network, pairs)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if number % 100 == 99 or number == s.steps - 1:
            print(f"    {name}: {number + 1}/{s.steps}, loss {float(value.detach()):.3f}", flush=True)
    network.eval()


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu")))


def loss(network: DFDNet, pairs: Pairs) -> Tensor:
    """Charbonnier, and the distance of the frozen features as in the paper's reconstruction loss (section 3.3)."""
    restored = network(common.signed(pairs.damaged), pairs.boxes)
    true = common.signed(pairs.true)
    mask = torch.from_numpy(pairs.valid)[:, None].float()
    with torch.no_grad():
        wanted = network.extractor(true)
    gaps = [relative_gap(a.float(), b.float()) for a, b in zip(network.extractor(restored), wanted)]
    return charbonnier(restored.float(), true, mask) + FEATURE_WEIGHT * torch.stack(gaps).sum()


def relative_gap(features: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference over the energy of the wanted features."""
    return (features - wanted).square().mean() / wanted.square().mean()


# --- judging


def run_arm(name: str, faces: Faces, test: Pairs, s: Settings) -> dict[str, Any]:
    """Train the arm's network, judge it on other people."""
    network = fresh(KINDS.get(name, DFDNet))
    network.load_dictionaries(dictionaries(faces, s.dictionary_faces, ATOMS[name]))
    train(name, network, faces, s)
    torch.manual_seed(1)
    return measure(restore(network, test), test)


@torch.inference_mode()
def restore(network: DFDNet, test: Pairs) -> Images:
    """Restored crops (N, S, S, 3)."""
    done = []
    for some in batches(range(len(test.boxes)), 20):
        with half():
            restored = network(common.signed(test.damaged[some]), test.boxes[some])
        done.append(restored.float().add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(done)


def measure(restored: Images, test: Pairs) -> dict[str, Any]:
    """`MEASURES` face by face, and their means."""
    inside = test.inside()
    pasted = np.where(inside[..., None], restored, test.true)
    judge: Any = create("vitfiqa", pretrained=True)
    embeddings = [judge.embed(recut(images, "arcface", 112)) for images in (pasted, test.true)]
    faces = list(zip(restored, test.true, test.valid, inside))
    scores = {
        "features": feature_distances(restored, test),
        "identity": np.einsum("nd,nd->n", *embeddings).tolist(),
        "psnr_components": [psnr(a, b, data_range=255, mask=valid & part) for a, b, valid, part in faces],
        "psnr": [psnr(a, b, data_range=255, mask=valid) for a, b, valid, _ in faces],
    }
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return means | {"faces": {name: np.round(values, 5).tolist() for name, values in scores.items()}}


@torch.inference_mode()
def feature_distances(restored: Images, test: Pairs) -> list[float]:
    """Relative squared distance to the true features, averaged over components and scales, (N,)."""
    extractor = fresh(DFDNet).extractor
    found = []
    for some in batches(range(len(restored)), 20):
        maps = [extractor(common.signed(images[some])) for images in (restored, test.true)]
        for n, boxes in enumerate(test.boxes[some]):
            levels = zip(*maps, REDUCTIONS)
            gaps = [float(relative_gap(a[n][r], b[n][r])) for a, b, by in levels for r in regions(boxes // by)]
            found.append(float(np.mean(gaps)))
    return found


def regions(boxes: Indices) -> list[tuple[slice, ...]]:
    """All channels of the boxes of one face in its feature maps, at least one cell each."""
    low = boxes.clip(0)
    return [(slice(None), slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))) for x0, y0, x1, y1 in low.tolist()]


# --- the report


def gain(results: dict[str, dict[str, Any]], measure: str, better: str, than: str) -> Estimate:
    """How much better one arm is, by a paired bootstrap over faces; distances count the other way."""
    a, b = (np.asarray(results[arm]["faces"][measure]) for arm in (better, than))
    return bootstrap(b - a if measure == "features" else a - b)


def verdicts(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    given = results[INPUT]["psnr"]
    harmful = all(found["psnr"] < given for arm, found in results.items() if arm != INPUT)
    for name in ("features", "identity"):
        for rival in (NOTHING, RANDOM, ONE):
            by = gain(results, name, MANY, rival)
            words = "are nearer to the true features" if name == "features" else "keep the person better"
            lines.append(
                common.verdict(f"{MANY} {words} than {rival}", by.low > 0, by.text(4, sign=True), harmful=harmful)
            )
    change = gain(results, "psnr", MANY, NOTHING)
    kept = f"the PSNR of the whole crop is at most {ALLOWED_LOSS} dB below that of {NOTHING}"
    said = change.text(2, sign=True) + " dB"
    lines.append(common.verdict(kept, change.low > -ALLOWED_LOSS, said, harmful=harmful))
    curve = [results[arm]["features"] for arm in (ONE, FEW, MANY)]
    falls = curve[0] > curve[1] > curve[2]
    numbers = ", ".join(f"{v:.4f}" for v in curve)
    lines.append(common.verdict("1, 8 and 32 atoms come ever nearer", falls, numbers, harmful=harmful))
    return lines


def report(results: dict[str, dict[str, Any]], s: Settings) -> list[str]:
    """The table and the verdicts."""
    rows = [
        [arm, *(bootstrap(found["faces"][m]).text(2 if "psnr" in m else 4) for m in MEASURES)]
        for arm, found in results.items()
    ]
    return [
        f"# {TITLE}",
        "",
        "```",
        "python -m reproductions.dfdnet.run      # the labelled collections are found through FACEWRIGHT_DATA",
        "```",
        "",
        f"One picture each of {s.test_faces} people none of the networks saw, {SIZE} px, damaged as in the paper.",
        f"Every arm: {s.steps} steps of {s.batch_size} pictures; same start, pictures and damage. Dictionaries:",
        f"k-means over {s.dictionary_faces} undamaged training faces. Components: inside the boxes of eyes, nose",
        "and mouth. Identity: cosine of the true face and the true face with the components of the restored one, by a",
        "recogniser nothing was trained with. Brackets: 95 % bootstrap intervals over faces, paired in the verdicts.",
        "",
        *common.table(["arm", *MEASURES.values()], rows),
        "",
        *verdicts(results),
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    train_faces, test_faces = Faces.of("train"), Faces.of("val")
    chosen = test_faces.one_each(s.test_faces)
    s = replace(s, test_faces=len(chosen))
    test = Pairs.of(test_faces, chosen, np.random.default_rng(2), mirror=False)
    arms = Arms(common.arms_file(args, SLUG), s, len(ATOMS) + 1)
    results = {INPUT: arms.run(INPUT, measure, test.damaged, test)}
    results |= {arm: arms.run(arm, run_arm, arm, train_faces, test, s) for arm in ATOMS}
    common.finish(args, SLUG, report(results, s), ["distilledface"])


if __name__ == "__main__":
    main()
