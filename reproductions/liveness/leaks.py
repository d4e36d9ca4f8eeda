"""What tells attacks of Replay-Attack without a look at faces: in its frames, and in what the protocol leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from facewright.data.inner_faces import SPEC, oval, surroundings_only
from facewright.evaluation.liveness import judge, known_instruments

from . import features
from .run import Machine, percent

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from facewright.data.liveness import PackedCrops
    from facewright.data.presentation import FoundFrames

    Floats = NDArray[np.float64]
    Images = NDArray[np.uint8]

_RIDGE = 10.0
_SMALL = 24


def sizes_in_frame(found: FoundFrames) -> Floats:
    """Distance of the eyes, sides and middle of the box in the frame, (N, 5)."""
    eyes = np.linalg.norm(found.points5[:, 1] - found.points5[:, 0], axis=1)
    x0, y0, x1, y1 = found.boxes.T
    return np.stack([eyes, x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2], 1).astype(np.float64)


def shapes(found: FoundFrames) -> Floats:
    """The five landmarks where the crop has them, (N, 10): the shape of the face without its size, place and turn."""
    placed = []
    for points in found.points5.astype(np.float64):
        matrix = SPEC.align(points)
        placed.append((points @ matrix[:, :2].T + matrix[:, 2]).ravel() / SPEC.size)
    return np.array(placed)


def colours(crops: Images) -> Floats:
    """Mean and deviation of the inner face's three colours, (N, 6)."""
    inside = crops[:, oval(crops.shape[1])].astype(np.float64) / 255
    return np.concatenate([inside.mean(1), inside.std(1)], 1)


def small(crops: Images) -> Floats:
    """Crops reduced and as rows of numbers."""
    step = max(1, crops.shape[1] // _SMALL)
    return np.asarray(crops[:, ::step, ::step].reshape(len(crops), -1) / 255)


def told_size(rows: Floats, size: Floats, attack: NDArray[np.bool_], taught: NDArray[np.bool_]) -> Floats:
    """What rows of features (N, F) tell of a size (N,), by ridge regression on the taught ones.

    Live people and attacks are centred by themselves, so that the difference of their sizes teaches nothing.
    """
    x = (rows - rows[taught].mean(0)) / (rows[taught].std(0) + 1e-6)
    inputs, wanted = x[taught].copy(), size[taught].copy()
    for kind in (True, False):
        own = attack[taught] == kind
        inputs[own] -= inputs[own].mean(0)
        wanted[own] -= wanted[own].mean()
    weights = np.linalg.solve(inputs.T @ inputs + _RIDGE * len(inputs) / 100 * np.eye(x.shape[1]), inputs.T @ wanted)
    return np.asarray(x @ weights)


def leaks_of(root: Path, found: FoundFrames, inner: PackedCrops) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of the table, (what, where, HTER, AUC), and the HTER by name; and how well crops tell the face's size."""
    protocol = known_instruments(inner.side, np.ones(len(inner), bool))
    _, first = np.unique(inner.video, return_index=True)
    one = inner.where(first)
    once = known_instruments(one.side, np.ones(len(one), bool))
    attack = ~inner.live
    frame_sizes = sizes_in_frame(found)
    textures = features.binary_patterns(inner.images, oval())
    told = told_size(textures, np.log(frame_sizes[:, 0]), attack, protocol.train)
    resolution, codec = features.files(root, found, first)
    tests = [
        ("surroundings", "frame", once, Machine(features.backgrounds(root, found, first), ~one.live)(once.train), one),
        ("size and place of the face", "frame", protocol, Machine(frame_sizes, attack)(protocol.train), inner),
        ("resolution of the file", "frame", once, Machine(resolution, ~one.live)(once.train), one),
        ("codec of the file", "frame", once, Machine(codec, ~one.live)(once.train), one),
        (
            "surroundings",
            "inner face",
            protocol,
            Machine(small(surroundings_only(inner.images)), attack)(protocol.train),
            inner,
        ),
        ("size of the face, as the crop tells it", "inner face", protocol, told, inner),
        ("five landmarks", "inner face", protocol, Machine(shapes(found), attack)(protocol.train), inner),
        ("mean colours", "inner face", protocol, Machine(colours(inner.images), attack)(protocol.train), inner),
    ]
    rows, values = [], {}
    for name, where, by, scores, data in tests:
        outcome = judge(by, scores, data.species, data.person, data.video)
        low, high = outcome.interval
        rows.append([name, where, f"{percent(outcome.hter)} ({percent(low)} to {percent(high)})", percent(outcome.auc)])
        values[f"{name}, {where}"] = outcome.hter
    tested = protocol.test & inner.live
    values["size told, correlation"] = float(np.corrcoef(told[tested], np.log(frame_sizes[tested, 0]))[0, 1])
    return rows, values
