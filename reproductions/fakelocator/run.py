"""FakeLocator's ideas: grey maps, attention to parts, augmenting real pictures only, single-sample clustering.

    python -m reproductions.fakelocator.run --prepare local/fakelocator         # once: forges the pictures
    python -m reproductions.fakelocator.run --data local/fakelocator --write    # a quarter of an hour on one core

Networks learn from mouths and eyes that one kind of up-sampler drew anew, each beside its own original, and are judged
on other people: on the same forgeries, on three other up-samplers, and on other parts of the face.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.data.prepared import read_prepared, write_prepared
from facewright.degrade.forge import Storage, change_map, mix, region_mask, stored
from facewright.degrade.forge.regions import feathered, union
from facewright.degrade.forge.resynthesis import SEAM, redrawn
from facewright.metrics.forensics import coss
from facewright.metrics.full_reference import psnr, ssim
from facewright.metrics.presentation import auc
from facewright.systems.base import system_class
from facewright.systems.forgery.fakelocator.network import FakeLocator, FakeLocatorConfig
from facewright.systems.forgery.fakelocator.training import single_sample_clustering
from facewright.training.trainer import Recipe, Trainer, signed

from .. import common
from ..common.forged import portraits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.degrade.forge import Region
    from facewright.degrade.forge.resynthesis import Upsampler

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

SLUG = "fakelocator"
RECIPE = Path("recipes/fakelocator-maps.yaml")
SIZE, STEPS, STRIDE = 96, 2, 8
METHODS: tuple[Upsampler, ...] = ("transposed", "nearest", "shuffle", "bilinear")
"""The first is learnt from."""
PARTS: tuple[tuple[Region, ...], ...] = (("mouth",), ("left eye", "right eye"), ("left eye", "right eye", "mouth"))
SETS = (*METHODS, "nose", "hair")
"""What is tested: mouths and eyes by each method, and the first method on parts nobody learned from."""
CHANGED = 0.05
"""Grey change from which a pixel counts as forged where a mask is judged."""
WORN: dict[str, Storage] = {
    "JPEG 70": Storage(quality=70),
    "half size": Storage(reduction=2.0),
    "noise 8": Storage(noise=8.0),
}


@dataclass(frozen=True)
class Arm:
    """`mask`: grey change above which a pixel is 1; 0 keeps the grey map."""

    mask: float = 0.0
    attention: str = "none"
    worn: str = ""


ARMS = {
    "grey map": Arm(),
    "mask above 0.02": Arm(mask=0.02),
    "mask above 0.05": Arm(mask=0.05),
    "grey map, attention": Arm(attention="residual"),
    "grey map, all augmented": Arm(worn="all"),
    "grey map, real ones augmented": Arm(worn="real"),
}
LEAST = 0.5
"""Points by which every seed must agree."""
LEARNED = 0.9
"""AUC on other people, of the method learnt from, below which a run has not learned."""
WEAR = ("grey map", "grey map, all augmented", "grey map, real ones augmented")


@dataclass(frozen=True)
class Settings:
    steps: int = 160
    people: int = 800
    test_people: int = 250
    seeds: tuple[int, ...] = (0, 1)

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=5, seeds=(0,))


# --- data -------------------------------------------------------------------------------------------------------------


def forged(image: Image, mask: NDArray[np.float32], how: Upsampler, rng: np.random.Generator) -> tuple[Image, Image]:
    """The picture with what is under the mask drawn anew, and its grey change (H, W) uint8."""
    soft = feathered(mask, SEAM * SIZE)
    made = mix(image, redrawn(image, how, rng, steps=STEPS), soft)
    return made, (change_map(image, made) * 255 + 0.5).astype(np.uint8)


def part_mask(points: NDArray[np.floating], hair: NDArray[np.float32], what: str, rng: Any) -> NDArray[np.float32]:
    """Where a picture of a test set, or of the training's, is forged."""
    if what == "hair":
        return hair
    if what == "nose":
        return region_mask(points, "nose", (SIZE, SIZE))
    return union(points, PARTS[int(rng.integers(len(PARTS)))], (SIZE, SIZE))


def prepare(folder: Path, s: Settings) -> None:
    """Forge and write the pictures: for training pairs of a real and a forged one; for tests the real ones of all
    people, and then their forgeries set by set."""
    parser: Any = system_class("segface").from_pretrained()
    spec = dataclasses.replace(FakeLocator.preprocess_for(FakeLocatorConfig(SIZE)).crop)
    is_hair = [k for k, name in enumerate(parser.classes) if name == "hair"]
    for split, most in (("train", s.people), ("val", s.test_people)):
        faces = portraits(split, spec, most)  # type: ignore[arg-type]
        images: list[Image] = []
        masks: list[Image] = []
        for what in SETS[:1] if split == "train" else SETS:
            for row in range(len(faces)):
                rng = np.random.default_rng((row, SETS.index(what), int(split == "val")))
                image = faces.crops[row]
                hair = np.zeros((SIZE, SIZE), np.float32)
                if what == "hair":
                    hair = (parser.probabilities(image[None])[0][is_hair].sum(0) > 0.5).astype(np.float32)
                mask = part_mask(faces.points68[row], hair, what, rng)
                made, change = forged(image, mask, METHODS[0] if what not in METHODS else what, rng)
                if split == "train":
                    images.append(image)
                    masks.append(np.zeros_like(change))
                images.append(made)
                masks.append(change)
        if split == "val":
            images[:0] = list(faces.crops)
            masks[:0] = [np.zeros((SIZE, SIZE), np.uint8)] * len(faces)
        kinds = np.arange(len(images)) % 2 if split == "train" else (np.arange(len(images)) >= len(faces)).astype(int)
        regions = np.stack([looked_at(parser, image) for image in images])
        arrays = {"image": np.stack(images), "mask": np.stack(masks)[:, None], "kind": kinds, "regions": regions}
        write_prepared(folder, split, arrays)  # type: ignore[arg-type]


def looked_at(parser: Any, image: Image) -> NDArray[np.float16]:
    """The parser's soft map of the very picture that is judged, (19, S / 8, S / 8), as the attention averages it."""
    chances = torch.from_numpy(parser.probabilities(image[None]))
    return torch.nn.functional.avg_pool2d(chances, STRIDE)[0].half().numpy()


# --- one arm ----------------------------------------------------------------------------------------------------------


def thresholded(folder: Path, above: float) -> Path:
    """The training pictures with masks in place of grey maps, beside the folder."""
    target = folder.with_name(f"{folder.name}-mask-{above:g}")
    if not (target / "train-image.npy").exists():
        arrays = read_prepared(folder, "train")
        mask = ((arrays["mask"] > 255 * above) * np.uint8(255)).astype(np.uint8)
        write_prepared(target, "train", arrays | {"mask": mask})
    return target


class Bench:
    """The pictures, and how an arm is trained and judged."""

    def __init__(self, folder: Path, work: Path, s: Settings) -> None:
        self.folder, self.work, self.s = folder, work, s
        self.recipe = Recipe.load(RECIPE)
        self.test = read_prepared(folder, "val")
        self.people = int((self.test["kind"] == 0).sum())

    def rows(self, name: str) -> slice:
        """Test pictures of a set; "" for the real ones."""
        start = 0 if not name else (1 + SETS.index(name)) * self.people
        return slice(start, start + self.people)

    def run(self, name: str, arm: Arm, seed: int) -> dict[str, Any]:
        model = self.trained(name, arm, seed)
        real = self.looked(model, "")
        found: dict[str, Any] = {}
        maps: dict[str, NDArray[np.float32]] = {}
        for what in SETS:
            everything = self.looked(model, what)
            maps[what] = everything["map"]
            changed = np.flatnonzero(
                self.test["mask"][self.rows(what)].any((1, 2, 3))
            )  # the parser sees no hair on some
            seen = {key: value[changed] for key, value in everything.items()}
            truth = self.test["mask"][self.rows(what)][changed, 0].astype(np.float64) / 255
            found[what] = self.judged(real, seen) | located(seen["map"], truth)
            found[what]["clustered"] = self.clustered(real["features"], seen["features"], seed)
        if name in WEAR:
            found["worn"] = {how: self.judged(*self.pair(model, storage)) for how, storage in WORN.items()}
            found["worn"]["as photos are stored"] = self.judged(*self.pair(model, None))
        found["real map"] = float(real["map"].mean())
        self.draw(name, seed, maps)
        return found

    def pair(self, model: FakeLocator, storage: Storage | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Real pictures and forgeries of the method learnt from, both worn: in one way, or each as by lot."""
        return self.looked(model, "", storage or "drawn"), self.looked(model, METHODS[0], storage or "drawn")

    def trained(self, name: str, arm: Arm, seed: int) -> FakeLocator:
        folder = thresholded(self.folder, arm.mask) if arm.mask else self.folder
        options = self.recipe.data["options"] | {"folder": str(folder), "worn": arm.worn}
        training = dict(self.recipe.training["options"])
        if arm.mask:  # cross-entropy is of another size than a small grey difference
            training |= {"loss": "bce", "map_weight": 1.0}
        recipe = dataclasses.replace(
            self.recipe,
            config=self.recipe.config | {"attention": arm.attention},
            training=self.recipe.training | {"options": training},
            data=self.recipe.data | {"options": options},
            steps=self.s.steps,
            seed=seed,
        )
        place = self.work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        return FakeLocator.from_pretrained(Trainer(recipe, place).run()).eval()

    @torch.inference_mode()
    def looked(self, model: FakeLocator, name: str, storage: Storage | str = "") -> dict[str, Any]:
        """Scores (N,), maps (N, S, S) and pooled features (N, D) of a set."""
        rows = self.rows(name)
        images, regions = np.array(self.test["image"][rows]), self.test["regions"][rows]
        if storage:
            rng = np.random.default_rng(len(name))
            images = np.stack(
                [
                    stored(image, Storage.drawn(rng) if isinstance(storage, str) else _reseeded(storage, number))
                    for number, image in enumerate(images)
                ]
            )
        scores, maps, features = [], [], []
        for start in range(0, len(images), 50):
            part = slice(start, start + 50)
            x = signed(torch.from_numpy(images[part])).contiguous(memory_format=torch.channels_last)
            with common.half():
                deep = model.encoder(x, torch.from_numpy(np.array(regions[part])).float())
                out = model.locate(deep)
            scores.append(out.kind.float().softmax(1)[:, 1].double().numpy())
            maps.append(out.map.float().sigmoid()[:, 0].numpy())
            features.append(model.pooled(deep[-1]).float().numpy())
        joined = {"score": scores, "map": maps, "features": features}
        return {key: np.concatenate(value) for key, value in joined.items()}

    def nothing(self) -> dict[str, float]:
        """How near an empty map is to the truth of the method learnt from."""
        truth = self.test["mask"][self.rows(METHODS[0])][:, 0].astype(np.float64) / 255
        truth = truth[truth.any((1, 2))]
        return located(np.zeros_like(truth), truth)

    def judged(self, real: dict[str, Any], fake: dict[str, Any]) -> dict[str, float]:
        """AUC, accuracy at ½, and the shares of real and forged pictures called forged."""
        scores = np.concatenate([real["score"], fake["score"]])
        alarms, hits = float((real["score"] > 0.5).mean()), float((fake["score"] > 0.5).mean())
        area = auc(scores, np.arange(len(scores)) >= len(real["score"]))
        return {"auc": area, "accuracy": (1 - alarms + hits) / 2, "alarms": alarms, "hits": hits}

    def clustered(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> float:
        """Accuracy of single-sample clustering of a set, mean over ten pictures whose label is given."""
        features = np.concatenate([real, fake])
        truth = np.arange(len(features)) >= len(real)
        known = np.random.default_rng(seed).choice(len(features), 10, replace=False)
        return float(
            np.mean([(single_sample_clustering(features, int(k), bool(truth[k])) == truth).mean() for k in known])
        )

    def draw(self, name: str, seed: int, maps: dict[str, NDArray[np.float32]]) -> None:
        """Rows to look at: picture, truth and map of some forgeries, both as bright as their own maximum."""
        rows = []
        for what in SETS:
            cells = []
            for k in range(5):
                image = np.array(self.test["image"][self.rows(what)][k])
                truth = self.test["mask"][self.rows(what)][k, 0]
                cells += [image, _shown(truth / 255), _shown(maps[what][k])]
            rows.append(np.concatenate(cells, 1))
        path = self.work / f"{name.replace(' ', '-').replace(',', '')}-{seed}.png"
        cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def _reseeded(storage: Storage, number: int) -> Storage:
    return dataclasses.replace(storage, seed=number)


def _shown(grey: NDArray[np.floating]) -> Image:
    bright = (255 * grey / max(float(grey.max()), 1e-6)).astype(np.uint8)
    return np.repeat(bright[..., None], 3, 2)


def located(maps: NDArray[np.floating], truth: NDArray[np.floating]) -> dict[str, float]:
    """Means over forgeries of COSS, PSNR and SSIM against grey truths (N, H, W); best F1 of the mask, and its IoU."""
    pairs = [(found.astype(np.float64), change) for found, change in zip(maps, truth)]
    f1 = best_f1(maps, truth > CHANGED)
    return {
        "coss": float(np.mean([coss(a, b) for a, b in pairs])),
        "psnr": float(np.mean([psnr(a, b, data_range=1.0) for a, b in pairs])),
        "ssim": float(np.mean([ssim(a, b, data_range=1.0) for a, b in pairs])),
        "f1": f1,
        "iou": f1 / (2 - f1),
    }


def best_f1(maps: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """F1 of all pixels together at the threshold that suits a set best."""
    order = np.argsort(maps.ravel())[::-1]
    hits = np.cumsum(truth.ravel()[order])
    said = np.arange(1, len(hits) + 1)
    return float((2 * hits / (said + hits[-1])).max())


# --- report -----------------------------------------------------------------------------------------------------------

Runs = dict[str, list[dict[str, Any]]]


def value(runs: Runs, arm: str, key: str, sets: tuple[str, ...], scale: float = 100.0) -> str:
    """Mean over sets, mean ± deviation over seeds."""
    return common.mean_std([float(np.mean([run[what][key] for what in sets])) for run in runs[arm]], scale)


def report(s: Settings, runs: Runs, nothing: dict[str, float]) -> list[str]:
    seen, unseen, parts = SETS[:1], SETS[1:4], SETS[4:]
    masks = list(ARMS)[:3]
    located = [
        [
            arm,
            *(value(runs, arm, key, seen) for key in ("coss",)),
            value(runs, arm, "psnr", seen, 1.0),
            *(value(runs, arm, key, seen) for key in ("ssim", "f1", "iou", "auc")),
        ]
        for arm in masks
    ]
    located.append(["an empty map", "–", f"{nothing['psnr']:.1f}", f"{100 * nothing['ssim']:.1f}", "–", "–", "–"])
    attended = [
        [arm, *(value(runs, arm, key, (what,)) for what in (METHODS[0], *parts) for key in ("auc", "coss"))]
        for arm in ("grey map", "grey map, attention")
    ]
    crossed = [
        [
            arm,
            *(value(runs, arm, "accuracy", (what,)) for what in METHODS),
            value(runs, arm, "accuracy", unseen),
            value(runs, arm, "auc", unseen),
            value(runs, arm, "clustered", unseen),
        ]
        for arm in WEAR
    ]
    price = [
        [
            arm,
            *(
                common.mean_std([run["worn"]["as photos are stored"][key] for run in runs[arm]])
                for key in ("alarms", "hits", "auc")
            ),
            *(common.mean_std([run["worn"][how]["auc"] for run in runs[arm]]) for how in WORN),
        ]
        for arm in WEAR
    ]
    return [
        "# FakeLocator: grey maps, attention, augmentation",
        "",
        "```",
        "python -m reproductions.fakelocator.run --prepare local/fakelocator",
        "python -m reproductions.fakelocator.run --data local/fakelocator --write",
        "```",
        "",
        f"A network of {SIZE} px crops and 12 to 48 channels that keeps full resolution learns for {s.steps} steps of",
        f"16 pictures from {s.people} people, each real and with mouth, eyes or both drawn anew by strided transposed",
        f"convolution. Judged on {s.test_people} other people. Mean ± standard deviation of {len(s.seeds)} seeds.",
        "Real and forged pictures are stored alike, and untouched unless it is said.",
        "",
        "## Grey maps or masks",
        "",
        f"Maps against the true grey change of forgeries; F1 and IoU of the mask of changes above {CHANGED}, at the",
        "best threshold of each arm. Detection is by the branch.",
        "",
        *common.table(["learnt from", "COSS %", "PSNR dB", "SSIM %", "F1 %", "IoU %", "detection AUC %"], located),
        "",
        "A map of chances is no map of grey change, so that PSNR and SSIM favour the grey map by what they are; COSS",
        "and F1 do not depend on the scale. By SSIM no map is as near as an empty one.",
        "On real pictures, where nothing changed, the mean of the maps is "
        + ", ".join(f"{np.mean([run['real map'] for run in runs[arm]]):.3f} ({arm})" for arm in masks)
        + ".",
        "",
        "## Attention to parts",
        "",
        "Nobody learned from noses and hair.",
        "",
        *common.table(
            ["arm", *(f"{what}: {key} %" for what in ("mouth, eyes", *parts) for key in ("AUC", "COSS"))], attended
        ),
        "",
        "## Other up-samplers",
        "",
        "Accuracy at ½; last, of single-sample clustering over ten labelled pictures, which needs the whole set.",
        "",
        *common.table(
            ["augmented", *(f"{how} %" for how in METHODS), "unseen three %", "their AUC %", "clustered %"], crossed
        ),
        "",
        "The price: real pictures and forgeries of the method learnt from, both stored as photos are (by lot).",
        "",
        *common.table(
            [
                "augmented",
                "real called forged %",
                "forged called forged %",
                "AUC %",
                *(f"{how}: AUC %" for how in WORN),
            ],
            price,
        ),
        "",
        "Runs that have not learned (AUC below "
        + f"{LEARNED:g} on the method learnt from): "
        + (", ".join(f"{arm}, seed {seed}" for arm, seed in unlearned(s, runs)) or "none")
        + ". Claims about such an arm are inconclusive, and so are those about grey maps while one of them is farther",
        "from the truth (PSNR) than an empty map.",
        "",
        *verdicts(runs, masks, nothing),
    ]


def unlearned(s: Settings, runs: Runs) -> list[tuple[str, int]]:
    return [
        (arm, seed)
        for arm, found in runs.items()
        for seed, run in zip(s.seeds, found)
        if run[METHODS[0]]["auc"] < LEARNED
    ]


def verdicts(runs: Runs, masks: list[str], nothing: dict[str, float]) -> list[str]:
    """The outcome of every claim. A grey map that is farther from the truth than an empty one, and an arm that does not
    even tell the forgeries it learned from, have not been learned: what they are compared in is inconclusive."""
    unseen, parts = SETS[1:4], SETS[4:]

    def gains(better: str, worse: str, key: str, sets: tuple[str, ...]) -> list[float]:
        return [
            100 * float(np.mean([a[what][key] - b[what][key] for what in sets]))
            for a, b in zip(runs[better], runs[worse])
        ]

    def decided(claim: str, found: list[float], asked: float = LEAST, *, learnt: bool = True) -> str:
        clear = learnt and (min(found) >= asked or max(found) <= min(asked, -LEAST))
        outcome = found[0] >= asked if clear else common.Verdict.INCONCLUSIVE
        return common.verdict(claim, outcome, ", ".join(f"{gain:+.1f}" for gain in found) + " points")

    def best_mask(key: str) -> str:
        return max(masks[1:], key=lambda arm: np.mean([run[METHODS[0]][key] for run in runs[arm]]))

    grey, attentive = "grey map", "grey map, attention"
    everything, real = "grey map, all augmented", "grey map, real ones augmented"
    clustering = [
        100 * float(np.mean([run[what]["clustered"] - run[what]["accuracy"] for what in unseen])) for run in runs[real]
    ]
    own = METHODS[:1]
    failed = {arm for arm, found in runs.items() if min(run[METHODS[0]]["auc"] for run in found) < LEARNED}
    settled = min(run[METHODS[0]]["psnr"] for run in runs[grey]) > nothing["psnr"]
    maps = [
        ("A grey map is nearer in COSS than the best mask", "coss", LEAST),
        ("A grey map is nearer in SSIM than the best mask", "ssim", LEAST),
        ("A grey map loses at most a point of F1 to the best mask", "f1", -1.0),
    ]
    return [
        *(decided(claim, gains(grey, best_mask(key), key, own), asked, learnt=settled) for claim, key, asked in maps),
        decided("Attention finds parts nobody learned from better (AUC)", gains(attentive, grey, "auc", parts)),
        decided("Attention places them better (COSS)", gains(attentive, grey, "coss", parts)),
        decided(
            "Augmenting all is better than none on unseen up-samplers",
            gains(everything, grey, "accuracy", unseen),
            learnt=not failed & {everything, grey},
        ),
        decided(
            "Augmenting real pictures only beats augmenting all",
            gains(real, everything, "accuracy", unseen),
            learnt=not failed & {everything, real},
        ),
        decided("Single-sample clustering adds to augmenting real pictures", clustering, learnt=real not in failed),
    ]


def main() -> None:
    parser = common.options(__doc__, threads=1)
    parser.add_argument("--data", type=Path, default=Path("local/fakelocator"), help="what --prepare wrote")
    parser.add_argument("--prepare", type=Path, help="forge the pictures into this folder, and stop")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    if args.prepare:
        prepare(args.prepare, s)
        return
    arms = common.Arms(common.arms_file(args, SLUG), s, len(ARMS) * len(s.seeds))
    bench = Bench(args.data, args.work / f"{SLUG}-runs{'-quick' if args.quick else ''}", s)
    runs: Runs = {name: [] for name in ARMS}
    for seed in s.seeds:
        for name, arm in ARMS.items():
            runs[name].append(arms.run(f"{name}, seed {seed}", bench.run, name, arm, seed))
    common.finish(args, SLUG, report(s, runs, bench.nothing()), ["segface"])


if __name__ == "__main__":
    main()
