"""Blend shapes named as in ARKit and the action units of the Facial Action Coding System (Ekman, Friesen, Hager 2002).

The table is the correspondence that the README of ICT-FaceKit publishes for its expressions, with one addition: action
unit 26 (jaw drop) is the lower half of jawOpen, whose full weight is unit 27 (mouth stretch). Units without a blend
shape, such as 23, 25 and 43, are not in it. Intensities run from 0 (absent) to 5; FACS writes 1 to 5 as A to E.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

HIGHEST = 5.0
INTENSITY = {"A": 1.0, "B": 2.0, "C": 3.0, "D": 4.0, "E": 5.0}
JAW_DROP = 0.5  # of jawOpen, where unit 26 ends and 27 begins


@dataclass(frozen=True, slots=True)
class ActionUnit:
    """One unit: its name and the blend shapes whose weight it is; `full` is their weight at intensity 5."""

    name: str
    shapes: tuple[str, ...]
    full: float = 1.0


def _both(name: str) -> tuple[str, str]:
    return f"{name}_L", f"{name}_R"


ACTION_UNITS = {
    "AU1": ActionUnit("inner brow raiser", _both("browInnerUp")),
    "AU2": ActionUnit("outer brow raiser", _both("browOuterUp")),
    "AU4": ActionUnit("brow lowerer", _both("browDown")),
    "AU5": ActionUnit("upper lid raiser", _both("eyeWide")),
    "AU6": ActionUnit("cheek raiser", _both("cheekSquint")),
    "AU7": ActionUnit("lid tightener", _both("eyeSquint")),
    "AU9": ActionUnit("nose wrinkler", _both("noseSneer")),
    "AU10": ActionUnit("upper lip raiser", ("mouthShrugUpper",)),
    "AU11": ActionUnit("nasolabial deepener", _both("mouthUpperUp")),
    "AU12": ActionUnit("lip corner puller", _both("mouthSmile")),
    "AU14": ActionUnit("dimpler", _both("mouthDimple")),
    "AU15": ActionUnit("lip corner depressor", _both("mouthFrown")),
    "AU16": ActionUnit("lower lip depressor", _both("mouthLowerDown")),
    "AU17": ActionUnit("chin raiser", ("mouthShrugLower",)),
    "AU18": ActionUnit("lip pucker", ("mouthPucker",)),
    "AU20": ActionUnit("lip stretcher", _both("mouthStretch")),
    "AU22": ActionUnit("lip funneler", ("mouthFunnel",)),
    "AU24": ActionUnit("lip pressor", _both("mouthPress")),
    "AU26": ActionUnit("jaw drop", ("jawOpen",), JAW_DROP),
    "AU27": ActionUnit("mouth stretch", ("jawOpen",)),
    "AU28": ActionUnit("lip suck", ("mouthRollLower", "mouthRollUpper")),
    "AU29": ActionUnit("jaw thrust", ("jawForward",)),
    "AU30_L": ActionUnit("jaw to the left", ("jawLeft",)),
    "AU30_R": ActionUnit("jaw to the right", ("jawRight",)),
    "AU33": ActionUnit("cheek blow", _both("cheekPuff")),
    "AU45": ActionUnit("blink", _both("eyeBlink")),
    "AU61": ActionUnit("eyes turn left", ("eyeLookOut_L", "eyeLookIn_R")),
    "AU62": ActionUnit("eyes turn right", ("eyeLookIn_L", "eyeLookOut_R")),
    "AU63": ActionUnit("eyes up", _both("eyeLookUp")),
    "AU64": ActionUnit("eyes down", _both("eyeLookDown")),
}
_ONE_SIDE = re.compile(r"(AU\d+)_([LR])")


def expression_of(units: Mapping[str, float]) -> dict[str, float]:
    """Weights 0..1 of blend shapes for action units with intensities 0..5.

    "AU12" acts on both sides, "AU12_L" on the subject's left alone. Where units share a shape the stronger one counts.
    Raises UsageError for units that have no shape and intensities outside 0..5.
    """
    weights: dict[str, float] = {}
    for name, intensity in units.items():
        if not 0 <= intensity <= HIGHEST:
            raise UsageError(f"intensities of action units run from 0 to {HIGHEST:g}, {name} has {intensity}")
        shapes, full = _shapes_of(name)
        for shape in shapes:
            weights[shape] = max(weights.get(shape, 0.0), intensity / HIGHEST * full)
    return weights


def action_units_of(expression: Mapping[str, float]) -> dict[str, float]:
    """Intensities 0..5 of the action units present in weights 0..1 of blend shapes; the stronger side counts.

    Of the jaw's two units, which exclude each other, the one that fits the opening is given.
    """
    units = {}
    for name, unit in ACTION_UNITS.items():
        weight = max(expression.get(shape, 0.0) for shape in unit.shapes)
        units[name] = min(weight / unit.full, 1.0) * HIGHEST
    units["AU27" if expression.get("jawOpen", 0.0) <= JAW_DROP else "AU26"] = 0.0
    return {name: intensity for name, intensity in units.items() if intensity > 0}


def _shapes_of(name: str) -> tuple[tuple[str, ...], float]:
    if name in ACTION_UNITS:
        unit = ACTION_UNITS[name]
        return unit.shapes, unit.full
    match = _ONE_SIDE.fullmatch(name)
    if match and match[1] in ACTION_UNITS:
        unit = ACTION_UNITS[match[1]]
        if set(unit.shapes) == {f"{unit.shapes[0][:-2]}_{side}" for side in "LR"}:
            return tuple(shape for shape in unit.shapes if shape.endswith(f"_{match[2]}")), unit.full
    raise UsageError(f"no blend shape for action unit {name!r}; known: {', '.join(ACTION_UNITS)}")
