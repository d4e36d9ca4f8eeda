"""Which faces of 512 px the 256 px restorer does good before FaceDetail: fit and judge `pipelines.two_stage`.

    python -m reproductions.stages.run FACES.npz [--write] [--fit]

FACES.npz is what `python -m facewright.data.highres` packs. Every face is damaged by seven presets and as in four kinds
of prints, and restored by the second stage alone and by both. A face is better off when PSNR and gradients (GMSD)
together are. The model, on the first stage's estimate of the damage, learns from training people and is judged on
validation people, beside always one or the other, the estimated SSIM alone, and the better of both, which nobody can
know.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from facewright import create
from facewright.data.highres import open_packed
from facewright.metrics import gmsd, psnr
from facewright.pipelines import two_stage
from facewright.pipelines.two_stage import UNDAMAGED, StageModel, TwoStageRestorer, shipped_model, stage_signals

from .. import common
from ..facedetail.evaluate import pairs
from ..gate.fit import damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.data.highres import PackedFaces
    from facewright.data.split import Split

    Picture = NDArray[np.uint8]
    Floats = NDArray[np.float64]

PRESETS = ("half", "quarter", "eighth", "soft", "vqfr", "mixed", "far")
PRINTS = ("screen", "grain", "blur and grain", "shrunk, grain and jpeg")
"""Kinds of damage of `reproductions.gate`."""
BY_SSIM = 0.89
GMSD_IN_DB = 60.0
"""How many dB a difference of 1 in GMSD is worth."""
MOST_GAIN = 3.0
LIMIT_SET = "The limit of SSIM from which no face goes through both was set on these faces."
ALWAYS, NEVER = StageModel(1.0, *[0.0] * 6), StageModel(-1.0, *[0.0] * 6)


@dataclass(frozen=True)
class Measured:
    """Signals (N, 6), what both stages gain over the second alone in dB (N,) and in GMSD (N,), and presets (N,)."""

    signals: Floats
    decibel: Floats
    gradients: Floats
    presets: NDArray[np.str_]

    @property
    def gain(self) -> Floats:
        """One number for both, in dB, bounded."""
        return np.clip(self.decibel - GMSD_IN_DB * self.gradients, -MOST_GAIN, MOST_GAIN)


def measure(faces: Path, split: Split, count: int) -> Measured:
    """Restore `count` faces a preset both ways."""
    first: Any = create("frgp", pretrained=True)
    second: Any = create("facedetail", pretrained=True)
    both, alone = (TwoStageRestorer(first, second, model, undamaged=2) for model in (ALWAYS, NEVER))
    signals, gains, presets = [], [], []
    packed = open_packed(faces, split)
    for preset in (*PRESETS, *PRINTS):
        of_kind = printed if preset in PRINTS else pairs
        for given, truth, mask in of_kind(packed, preset, min(count, len(packed))):
            estimates = both.assess(given[None])
            signals.append(stage_signals(estimates[0]))
            outputs = [stages.restore(given[None], estimates=estimates)[0] for stages in (both, alone)]
            decibels = [psnr(out, truth, data_range=255, mask=mask) for out in outputs]
            gradients = [gmsd(out, truth, data_range=255, mask=mask) for out in outputs]
            gains.append((decibels[0] - decibels[1], gradients[0] - gradients[1]))
            presets.append(preset)
        print(f"{split}: {preset}", flush=True)
    both_gains = np.array(gains)
    return Measured(np.array(signals), both_gains[:, 0], both_gains[:, 1], np.array(presets))


def printed(faces: PackedFaces, kind: str, count: int) -> list[tuple[Picture, Picture, NDArray[np.bool_]]]:
    """Damaged, true, and where the crop shows real pixels; the same at every call."""
    found = []
    for index in np.linspace(0, len(faces) - 1, count).round().astype(int):
        truth, mask = faces.face(int(index))
        found.append((damaged(truth, kind, np.random.default_rng(int(index))), truth, mask))
    return found


def fit(found: Measured) -> StageModel:
    """A logistic model of whether the first stage helps; faces count by how much is at stake."""
    mean, spread = found.signals.mean(0), found.signals.std(0) + 1e-9
    model = LogisticRegression(C=1.0, max_iter=2000)
    model.fit((found.signals - mean) / spread, found.gain > 0, sample_weight=np.abs(found.gain))
    weights = model.coef_[0] / spread
    return StageModel(float(model.intercept_[0] - weights @ mean), *(float(w) for w in weights))


def sent(found: Measured, model: StageModel) -> NDArray[np.bool_]:
    """Which faces go through both stages."""
    return (model(found.signals) > 0) & (found.signals[:, 5] < UNDAMAGED)


def report(found: Measured, model: StageModel) -> list[str]:
    """Tables of what each rule gains over the second stage alone."""
    rules = {
        "both stages, always": np.ones(len(found.gain), bool),
        f"both where the estimated SSIM is below {BY_SSIM}": found.signals[:, 5] < BY_SSIM,
        "both where the model says so (as shipped)": sent(found, model),
        "the better of both": found.gain > 0,
    }
    rows = [
        [
            name,
            f"{100 * chosen.mean():.0f} %",
            f"{np.where(chosen, found.decibel, 0).mean():+.2f}",
            f"{1000 * np.where(chosen, found.gradients, 0).mean():+.1f}",
        ]
        for name, chosen in rules.items()
    ]
    shipped = sent(found, model)
    by_preset = [
        [
            preset,
            f"{100 * shipped[found.presets == preset].mean():.0f} %",
            f"{found.decibel[found.presets == preset].mean():+.2f}",
            f"{np.where(shipped, found.decibel, 0)[found.presets == preset].mean():+.2f}",
        ]
        for preset in (*PRESETS, *PRINTS)
    ]
    return [
        *common.table(["rule", "go through both", "PSNR, dB, against the second alone", "GMSD, thousandths"], rows),
        "",
        *common.table(["damage", "sent through both", "both always, dB", "as shipped, dB"], by_preset),
    ]


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--count", type=int, default=24, help="faces of each preset")
    parser.add_argument("--fit", action="store_true", help="fit anew and write the model into the package")
    options = parser.parse_args()
    common.begin(options)
    model = shipped_model() if not options.fit else fit(measure(options.faces, "train", options.count))
    if options.fit:
        Path(two_stage.__file__).with_name(two_stage.WEIGHTS_FILE).write_text(model.to_json(), encoding="utf-8")
    found = measure(options.faces, "val", options.count)
    head = ["# When both stages restore", "", (__doc__ or "").partition("\n\n")[2].rstrip(), ""]
    lines = [*head, f"{options.count} validation faces of each preset. {LIMIT_SET}", "", *report(found, model)]
    given = f"FACES.npz --count {options.count}"
    common.finish(options, "stages", lines, ["frgp", "facedetail"], given=given)


if __name__ == "__main__":
    main()
