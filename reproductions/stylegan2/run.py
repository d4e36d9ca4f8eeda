"""How far the prior's faces are from real ones, and pictures of its styles.

    python -m reproductions.stylegan2.run --model runs/stylegan2-compact/model [--quick] [--write]

Needs the labelled face collections (FACEWRIGHT_DATA). Prints a table; `--write` writes docs/results/stylegan2.md and
the pictures docs/images/prior-grid.png and prior-walk.png, which show generated faces only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facewright.data.restoration import open_crops
from facewright.errors import UsageError
from facewright.geometry.resample import recut
from facewright.io.image import save_rgb
from facewright.metrics.frechet import FeatureStatistics, frechet_from_statistics
from facewright.pipelines.sheets import grid
from facewright.systems.recognise.distilledface.network import DistilledFace
from facewright.systems.synthesise.stylegan2.network import StyleGAN2

from .. import common

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from facewright.data.restoration import Name
    from facewright.data.split import Split

    Images = NDArray[np.uint8]
    Features = Callable[[Images], NDArray[np.float64]]

SHARES: dict[Name, float] = {"lfw": 0.7, "utkface": 0.3}
"""The mixture of the recipe."""
TRUNCATIONS = (1.0, 0.7)
RANDOM_NETWORKS = 3
_CACHED_SIZE = 128
_BATCH = 64

GRID_TRUNCATIONS = (0.0, 0.3, 0.5, 0.7, 1.0)
GRID_PEOPLE = 8
WALK_STOPS, WALK_STEPS = 5, 8
SHOWN_SIDE = 112


@dataclass(frozen=True, slots=True, eq=False)
class Photos:
    """Real crops (N, S, S, 3) uint8 RGB on the `ffhq` template and where they show the photo, (N, S, S)."""

    images: Images
    masks: NDArray[np.bool_]


def real_photos(split: Split, count: int, size: int) -> Photos:
    """The first `count` of a shuffled split, collections mixed as in the recipe, reduced to `size`."""
    images, masks = [], []
    for name, share in SHARES.items():
        cache = open_crops(name, split, max(size, _CACHED_SIZE))
        wanted = round(count * share)
        if wanted > len(cache.rows):
            raise UsageError(f"{name} has {len(cache.rows)} {split} crops, {wanted} were asked for: lower --samples")
        for index in np.random.default_rng(0).permutation(len(cache.rows))[:wanted]:
            image, mask = cache.crop(int(index))
            images.append(_reduced(image, size))
            masks.append(_reduced(mask.astype(np.uint8) * 255, size) == 255)
    return Photos(np.stack(images), np.stack(masks))


def _reduced(image: Images, size: int) -> Images:
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def masked(images: Images, masks: NDArray[np.bool_]) -> Images:
    """Grey wherever the photo of that place in the list shows nothing."""
    return np.where(masks[..., None], images, 128).astype(np.uint8)


class RandomFeatures(nn.Module):
    """A convolutional network that was never trained: mean and deviation of 128 features per picture.

    Untrained networks rank generators much as trained ones do and favour no data set (Naeem et al., "Reliable Fidelity
    and Diversity Metrics for Generative Models", ICML 2020).
    """

    widths = (3, 32, 64, 128, 128)

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 5, stride=2, padding=2, bias=False) for a, b in zip(self.widths, self.widths[1:])
        )
        for stage in self.stages:
            nn.init.kaiming_normal_(stage.weight, 0.2, generator=random)  # type: ignore[arg-type]

    @torch.inference_mode()
    def forward(self, images: Images) -> NDArray[np.float64]:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        for stage in self.stages:
            x = nn.functional.leaky_relu(stage(x), 0.2)
        deviation, mean = torch.std_mean(x, (2, 3))
        return np.asarray(torch.cat([mean, deviation], 1).numpy(), np.float64)


def identity_features(recogniser: DistilledFace, images: Images) -> NDArray[np.float64]:
    """Embeddings of crops on the `ffhq` template."""
    record = recogniser.preprocess
    return np.asarray(recogniser.embed(recut(images, record.crop.template, record.size)), np.float64)


def statistics(features: Features, images: Images) -> FeatureStatistics:
    """Mean and covariance of a network's features over pictures."""
    return FeatureStatistics.embedded(features, (images[i : i + _BATCH] for i in range(0, len(images), _BATCH)))


@dataclass(frozen=True, slots=True)
class Distances:
    """Fréchet distances of one set of pictures to the validation photos."""

    what: str
    embedding: float
    random: tuple[float, ...]

    def row(self) -> str:
        spread = f"{np.mean(self.random):.3f} ± {np.std(self.random, ddof=1):.3f}"
        return f"| {self.what} | {self.embedding:.4f} | {spread} |"


def measure(model: StyleGAN2, samples: int) -> list[Distances]:
    """The floor (training photos against validation photos) and the model at every truncation, all of equal number."""
    size = model.config.size
    unseen, seen = real_photos("val", samples, size), real_photos("train", samples, size)
    networks: list[Features] = [
        partial(identity_features, DistilledFace.from_pretrained()),
        *(RandomFeatures(seed) for seed in range(RANDOM_NETWORKS)),
    ]
    count = len(unseen.images)
    sets = {"training photos (the floor)": masked(seen.images, seen.masks)}
    for truncation in TRUNCATIONS:
        made = model.sample(count, seed=1, truncation=truncation, watermark=False)
        sets[f"generated, truncation {truncation:g}"] = masked(made, unseen.masks)
    noise = np.random.default_rng(0).integers(0, 256, unseen.images.shape, dtype=np.uint8)
    sets["noise"] = masked(noise, unseen.masks)
    wanted = [statistics(network, masked(unseen.images, unseen.masks)) for network in networks]
    found = []
    for what, images in sets.items():
        values = [
            frechet_from_statistics(statistics(network, images), target) for network, target in zip(networks, wanted)
        ]
        found.append(Distances(what, values[0], tuple(values[1:])))
    return found


def report(found: Sequence[Distances], model: StyleGAN2, samples: int) -> str:
    """The results page."""
    rows = "\n".join(d.row() for d in found)
    return (
        "# StyleGAN2: the compact prior\n\n"
        f"Made by `python -m reproductions.stylegan2.run --model FOLDER --write`. {model.config.size} px, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {samples} pictures in every set, "
        f"weights `{(model.weights_sha256 or '')[:12]}`.\n\n"
        "Fréchet distance to validation photos of people the training never saw; lower is better.\n\n"
        f"| pictures | on the recogniser's embeddings | on {RANDOM_NETWORKS} random networks |\n"
        f"| --- | --- | --- |\n{rows}\n\n"
        "![the same people at rising truncation](../images/prior-grid.png)\n\n"
        "![a walk between styles](../images/prior-walk.png)\n"
    )


def shown(images: Images) -> list[Images]:
    return [np.asarray(cv2.resize(i, (SHOWN_SIDE,) * 2, interpolation=cv2.INTER_CUBIC), np.uint8) for i in images]


def truncation_grid(model: StyleGAN2, seed: int = 3) -> Images:
    """The same people at rising truncation, one row each."""
    rows = [shown(model.sample(GRID_PEOPLE, seed=seed, truncation=t)) for t in GRID_TRUNCATIONS]
    labels = [[f"truncation {t:g}", *[""] * (GRID_PEOPLE - 1)] for t in GRID_TRUNCATIONS]
    return grid(rows, labels)


def walk(model: StyleGAN2, seed: int = 5, truncation: float = 0.7) -> Images:
    """Straight ways in w between people: every row leads from one to the next."""
    stops = model.latents(WALK_STOPS, seed=seed, truncation=truncation)
    shares = torch.linspace(0, 1, WALK_STEPS)[:, None]
    ways: list[Tensor] = [torch.lerp(a, b, shares) for a, b in zip(stops, stops[1:])]
    labels = [[f"{i + 1} to {i + 2}", *[""] * (WALK_STEPS - 1)] for i in range(len(ways))]
    return grid([shown(model.paint(way)) for way in ways], labels)


def main() -> None:
    parser = common.options(__doc__, quick="300 pictures; says little", arms=False, threads=1)
    parser.add_argument("--model", required=True, help="a trained folder or file")
    parser.add_argument("--samples", type=int, default=1700, help="pictures in every set")
    options = parser.parse_args()
    common.begin(options)
    model = StyleGAN2.from_pretrained(options.model)
    samples = 300 if options.quick else options.samples
    found = measure(model, samples)
    if common.finish(options, "stylegan2", report(found, model, samples), ["distilledface"], given="--model FOLDER"):
        save_rgb(truncation_grid(model), "docs/images/prior-grid.png", overwrite=True)
        save_rgb(walk(model), "docs/images/prior-walk.png", overwrite=True)


if __name__ == "__main__":
    main()
