"""Does a generator make many people, or a few over and over?

    python -m reproductions.stylegan2.diversity --model FOLDER [--count 400] [--write docs/results/diversity.md]

Pairs of made faces that the embedded recogniser takes for one person, at the threshold at which it takes one pair of
strangers in a hundred for one; how far apart the faces are in its features, and how much of the real faces they cover.
Styles are also stretched away from their mean, which spreads the people of a generator that has learnt too few; whether
they are still faces is for the eye. Validation people of LFW and UTKFace stand for real faces. Needs the labelled face
collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from facewright import create
from facewright.geometry.resample import recut
from facewright.metrics.diversity import mean_distance, precision_and_recall, same_person_share
from facewright.pipelines.identity import calibration_of
from facewright.systems.base import batches
from facewright.tasks.declare import get_task

from .. import common
from .run import TRUNCATIONS, real_photos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FAR = 1e-2
STRETCHED = (1.5, 2.0)
"""Factors above 1 on the distance of styles from their mean; `StyleGAN2.sample` refuses them."""
FATE = [
    "Its weights, which the recipe made in the time at hand, do not ship.",
    "",
    "*Styles ×*: as far from their mean as that, a remedy that needs no training. It sets people apart, but melts",
    "them: in fourteen pictures of each factor that were looked at, eyes and mouth run into each other.",
]
MOST = 0.15  # share of same-person pairs at truncation 0.7 above which a generator has collapsed


def embedded(recogniser: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) embeddings of crops on the `ffhq` template."""
    crop = recogniser.preprocess.crop
    parts = batches(images, 64)
    return np.concatenate([recogniser.embed(recut(np.asarray(part), crop.template, crop.size)) for part in parts])


def stretched(model: Any, count: int, factor: float) -> NDArray[np.uint8]:
    """Pictures of the same people as at truncation 1, their styles `factor` times as far from the mean."""
    styles, mean = (model.latents(count, seed=2, truncation=t) for t in (1.0, 0.0))
    return np.asarray(model.paint(mean + factor * (styles - mean)))


def measured(model: Any, count: int) -> dict[str, dict[str, float]]:
    """By set of pictures the share of same-person pairs, the spread, precision and recall."""
    recogniser: Any = create(get_task("verify").default, pretrained=True)
    calibration = calibration_of(recogniser)
    assert calibration is not None
    threshold = calibration.point(FAR).threshold
    real, others = np.array_split(embedded(recogniser, real_photos("val", 2 * count, model.config.size).images), 2)
    sets = {"other photos": others}
    for truncation in TRUNCATIONS:
        made = model.sample(count, seed=2, truncation=truncation, watermark=False)
        sets[f"made, truncation {truncation:g}"] = embedded(recogniser, made)
    for factor in STRETCHED:
        sets[f"made, styles × {factor:g}"] = embedded(recogniser, stretched(model, count, factor))
    found = {}
    for name, vectors in sets.items():
        precision, recall = precision_and_recall(real, vectors)
        found[name] = {
            "same": same_person_share(vectors, threshold),
            "spread": mean_distance(vectors),
            "precision": precision,
            "recall": recall,
        }
    return found


def page(found: dict[str, dict[str, float]], command: str, count: int) -> str:
    rows = [
        f"| {name} | {100 * v['same']:.1f} % | {v['spread']:.3f} | {v['precision']:.2f} | {v['recall']:.2f} |"
        for name, v in found.items()
    ]
    collapsed = found["made, truncation 0.7"]["same"] > MOST
    verdict = "has **collapsed**: it makes few people over and over" if collapsed else "makes many people"
    fate = FATE if collapsed else []
    lines = [
        "# How different made faces are",
        "",
        f"Made by `{command}`. {count} pictures in every set.",
        "*Same person*: pairs that the embedded recogniser takes for one person, at the threshold at which it takes",
        "one pair of strangers in a hundred for one. *Spread*: mean distance of its embeddings, 1.41 for unrelated",
        "ones.",
        "*Precision* and *recall*: made faces among real ones, and real ones among made ones, three neighbours.",
        "",
        "| pictures | same person | spread | precision | recall |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"More than {MOST:.0%} at truncation 0.7 is a collapse: this generator {verdict}.",
        *fate,
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("--model", required=True, help="a trained folder or file")
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args(arguments)
    common.begin(options)
    model: Any = create("stylegan2", pretrained=options.model)
    found = measured(model, options.count)
    given = f"--model FOLDER --count {options.count}"
    text = page(found, f"python -m reproductions.stylegan2.diversity {given}", options.count)
    common.finish(options, "diversity", text, [get_task("verify").default], given=given)


if __name__ == "__main__":
    main()
