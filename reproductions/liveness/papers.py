"""Six papers on liveness at compact size: does each one's idea help where instrument or lighting were never seen?

    python -m facewright.data.presentation REPLAY -o FOUND.npz --times 0 63 126 176 239
    python -m facewright.data.inner_faces REPLAY FOUND.npz -o INNER.npz
    python -m reproductions.liveness.papers REPLAY FOUND.npz INNER.npz --write [--minifasnet V2 V1SE]

Every system is trained on inner faces alone by the recipe of its name, beside the same network without the paper's
idea, by each protocol in turn. Finished arms are remembered in --work. Needs LFW (FACEWRIGHT_DATA) for the two encoders
that begin with faces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facewright.data.liveness import PackedCrops
from facewright.data.presentation import FoundFrames
from facewright.evaluation.liveness import Protocol, all_protocols, known_instruments, limited

from .. import common
from . import arms
from .arms import Bench

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PAGE = "liveness-papers"
SYSTEMS: dict[str, tuple[str, ...]] = {
    "cnn": ("cnn",),
    "dlif": ("dlif", "dlif_coarse", "dlif_plain"),
    "hypoc": ("hypoc", "hypoc_plain", "hypoc_distance"),
    "iadg": ("iadg", "iadg_plain"),
    "clipc8": ("clipc8", "clipc8_plain"),
    "ifas": ("ifas", "ifas_judge", "ifas_plain"),
    "dle": ("dle",),
    "livecheck": ("livecheck",),
}
"""The arms of each, methods of `arms.Bench`: first the paper's, last the plainest."""
ORDER = ("unseen print", "unseen highdef", "unseen adverse", "known instruments", "unseen mobile", "unseen controlled")
FIRST = 3
"""So many of them run before the further seeds."""
ONE_LIGHTING = ("unseen adverse", "unseen controlled")
FEW = 5
MORE_SEEDS = ("dle", "hypoc", "clipc8")
"""The three cheapest."""
LAST = ("iadg_kernels",)
"""Arms that run when all others are done."""


@dataclass(frozen=True)
class Settings:
    """steps: share of the recipes' steps. seeds: of the cheapest systems; all others have the first."""

    steps: float = 1.0
    pretraining: int = 300
    seeds: tuple[int, ...] = (0, 1, 2)
    protocols: tuple[str, ...] = (*ORDER, f"known instruments, {FEW} people")

    @classmethod
    def quick(cls) -> Settings:
        return cls(0.02, 4, (0,), ORDER[:1])


def protocols_of(inner: PackedCrops) -> dict[str, Protocol]:
    """Every protocol by its name; no person is on two of its sides."""
    everyone = np.ones(len(inner), bool)
    found = all_protocols(inner.side, inner.species, inner.domain, everyone)
    found.append(limited(known_instruments(inner.side, everyone), inner.person, FEW))
    for protocol in found:
        protocol.check(inner.person)
    return {protocol.name: protocol for protocol in found}


def written(inner: PackedCrops, protocol: Protocol, folder: Path) -> Path:
    """The file of a protocol: its crops alone, on the sides that it puts them."""
    path = folder / f"{protocol.name.replace(',', '').replace(' ', '-')}.npz"
    side = np.select([protocol.train, protocol.development], ["train", "calibration"], "test")
    replace(inner, side=side).where(used_by(protocol)).save(path)
    return path


def used_by(protocol: Protocol) -> NDArray[np.bool_]:
    return np.asarray(protocol.train | protocol.development | protocol.test)


def plan(s: Settings) -> list[tuple[str, str, int]]:
    """(arm, protocol, seed) in the order in which they run: what is most telling first.

    Kinds of lighting are no domains where only one teaches: there is no such arm.
    """
    first, *more = s.seeds
    whole = [arm for own in SYSTEMS.values() for arm in own]
    cheap = [arm for system in MORE_SEEDS for arm in SYSTEMS[system]]
    arms_of: list[tuple[str, str, int]] = []
    for names in (s.protocols[:FIRST], s.protocols[FIRST:]):
        arms_of += [(arm, name, first) for name in names for arm in whole]
        arms_of += [(arm, name, seed) for seed in more for name in names for arm in cheap]
    arms_of += [(arm, name, first) for arm in LAST for name in s.protocols]
    return [(arm, name, seed) for arm, name, seed in arms_of if arm != "dlif_coarse" or name not in ONE_LIGHTING]


def complete(s: Settings, done: Collection[str]) -> tuple[str, ...]:
    """The protocols of which all arms with the first seed are done, but for those that run last."""
    wanted = [one for one in plan(s) if one[2] == s.seeds[0] and one[0] not in LAST]
    left = {name for arm, name, seed in wanted if key(arm, name, seed) not in done}
    return tuple(name for name in s.protocols if name not in left)


def key(arm: str, protocol: str, seed: int) -> str:
    """Under which an arm is remembered."""
    return f"{arm} | {protocol} | {seed}"


def trained(s: Settings, inner: PackedCrops, work: Path, done: common.Arms) -> None:
    """Run the arms that are not yet remembered."""
    encoders = work / "encoders"
    for slug in ("hypoc", "dle"):
        done.run(f"encoder {slug}", lambda slug=slug: {"loss": arms.pretrain(slug, encoders, steps=s.pretraining)})
    protocols = protocols_of(inner)
    files = {name: written(inner, protocols[name], work / "protocols") for name in s.protocols}
    for arm, name, seed in plan(s):
        done.run(key(arm, name, seed), run_arm, arm, files[name], seed, encoders, s)


def run_arm(arm: str, file: Path, seed: int, encoders: Path, s: Settings) -> dict[str, Any]:
    """Train and score one arm. Scores are of the crops that did not teach."""
    found = getattr(Bench(file, seed, encoders, s.steps), arm)()
    table = found if isinstance(found, dict) else {arm: found}
    return {"scores": {name: np.round(scores, 5).tolist() for name, scores in table.items()}}


def main() -> None:
    parser = common.options(__doc__, threads=1)
    parser.add_argument("replay", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("inner", type=Path)
    parser.add_argument("--minifasnet", type=Path, nargs="+", default=[], help="folders that facewright import made")
    parser.add_argument("--train-only", action="store_true", help="run the arms, report nothing")
    parser.add_argument("--as-it-is", action="store_true", help="report the protocols that are done, run nothing")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    inner = PackedCrops.load(args.inner)
    done = common.Arms(common.arms_file(args, "liveness-papers"), s, 2 + len(plan(s)))
    if not args.as_it_is:
        trained(s, inner, Path(args.work) / "liveness-papers", done)
    if args.train_only:
        return
    from .papers_page import report

    lines = report(args, s, inner, FoundFrames.load(args.found), done.done)
    common.finish(args, PAGE, lines, ["livecheck"], people=False, given="REPLAY FOUND INNER --minifasnet V2 V1SE")


if __name__ == "__main__":
    main()
