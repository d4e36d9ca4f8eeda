"""Two attacks on the embedded recogniser: template inversion, and a change that sleeps until a watermark is put on.

    python -m reproductions.audit.run --write

Needs the labelled face collections (FACEWRIGHT_DATA). It is `facewright audit` on validation people of LFW, laid out as
a folder for each person, with the claims of the papers judged.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from facewright.data.faces import open_faces
from facewright.pipelines import audit as audits
from facewright.runtime.session import Session
from facewright.tasks.audit import AuditOptions
from facewright.tasks.declare import NetworkChoice
from facewright.weights.measure import record

from .. import common
from ..common import Verdict

if TYPE_CHECKING:
    import argparse

    from facewright.metrics.attacks import Rate
    from facewright.pipelines.audit import AuditReport, Inversion, Watermark

PAGE = "audit"
SYSTEMS = ["eigenfaces", "distilledface"]
SIZE = 4.0
LEAST = 20  # people, for a claim to be judged
ALONE = 160
"""People with one photo, which the attacker has."""


def lay_out(folder: Path, people: int) -> None:
    """Validation people of LFW as folders: twice `people` with two photos, and others with one."""
    faces = open_faces("lfw", "val")
    rows: dict[str, list[int]] = defaultdict(list)
    for row in faces.rows:
        rows[str(faces.labels["subject"][row])].append(int(row))
    several = sorted(name for name in rows if len(rows[name]) > 1)[: 2 * people]
    alone = sorted(name for name in rows if len(rows[name]) == 1)[:ALONE]
    for name in (*several, *alone):
        (folder / name).mkdir()
        for row in rows[name][:2]:
            (folder / name / str(faces.labels["filename"][row])).write_bytes(faces.encoded(row))


def main() -> None:
    parser = common.options(__doc__, quick="five people and a few steps", arms=False, threads=1)
    parser.add_argument("--people", type=int, default=40, help="who are attacked")
    parser.add_argument("--watermark", help="weights of HiDDeN, to also judge the second attack")
    parser.add_argument("--steps", type=int, default=80, help="of training the mapping")
    args = parser.parse_args()
    common.begin(args)
    lines, values = report(args)
    command = common.finish(args, PAGE, lines, SYSTEMS)
    if command:
        record("eigenfaces", "audit", values, command=command, data="LFW, validation people")


def report(args: argparse.Namespace) -> tuple[list[str], dict[str, float]]:
    people, steps = (5, 2) if args.quick else (args.people, args.steps)
    options = AuditOptions(people=people, steps=steps, epsilon=SIZE, watermark=args.watermark)
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), people)
        found = audits.audit(Session(), NetworkChoice(), Path(folder), options)
    lines = [*head(found), *inversion_part(found)]
    if found.watermark is not None:
        lines += watermark_part(found, found.watermark)
    whitebox, strict = found.inversion[0], min(found.genuine)
    values = {
        "made faces accepted against another photo, %": 100 * whitebox.other_photo[strict].share,
        "other photos of the person accepted, %": 100 * found.genuine[strict].share,
    }
    return lines, values


def head(found: AuditReport) -> list[str]:
    return [
        "# Attacks on the embedded recogniser",
        "",
        "Made by `python -m reproductions.audit.run` (`reproductions/audit`); it is `facewright audit`.",
        "",
        f"{found.people} validation people of LFW are attacked, with {found.attacker_photos} photos of others in the",
        "attacker's hands. The recogniser saw none of them, nor did the eigenfaces that draw.",
        "Thresholds are those of the recogniser's calibration. In brackets: where the true share",
        "lies by 95 %. One seed. Smaller than the paper: eigenfaces draw instead of StyleGAN, and only whitebox",
        "attacks on one recogniser were tried; what is said to be reproduced is said of these.",
        "",
    ]


def inversion_part(found: AuditReport) -> list[str]:
    strict, loose = min(found.genuine), max(found.genuine)
    header = ["faces made from templates", "defence"]
    header += [
        f"accepted %, {kind}, FMR {fmr:g}" for fmr in (loose, strict) for kind in ("another photo", "leaked one")
    ]
    rows = [
        [row.setting, row.defence or "none", *(str(r[fmr]) for fmr in (loose, strict) for r in _both(row))]
        for row in found.inversion
    ]
    real = ["another photo of the person", "", str(found.genuine[loose]), "", str(found.genuine[strict]), ""]
    whitebox, control, turned = (found.inversion[i].other_photo[loose] for i in (0, -2, -1))
    return [
        "## Template inversion",
        "",
        *common.table(header, [*rows, real]),
        "",
        common.verdict(
            f"whitebox succeeds at least five times as often as strangers match (FMR {loose:g})",
            _above(whitebox, 5 * loose),
            str(whitebox),
        ),
        common.verdict(
            "identity in training makes it at least three times as often as without",
            _holds(whitebox.share >= 3 * max(control.share, loose), whitebox, control),
            f"{whitebox} against {control}",
        ),
        common.verdict(
            "a secret rotation of the templates stops it", _holds(turned.share <= 5 * loose, turned), str(turned)
        ),
        "",
    ]


def _both(row: Inversion) -> tuple[dict[float, Rate], dict[float, Rate]]:
    return dict(row.other_photo), dict(row.same_photo)


def _above(rate: Rate, bar: float) -> bool | Verdict:
    """Whether a share is above a bar beyond its interval; inconclusive where the interval has it."""
    low, high = rate.interval
    return low >= bar or (False if high < bar else Verdict.INCONCLUSIVE)


def _holds(observed: bool, *rates: Rate) -> bool | Verdict:
    """What was observed, where there are people enough to say."""
    return observed if all(rate.total >= LEAST for rate in rates) else Verdict.INCONCLUSIVE


def watermark_part(found: AuditReport, w: Watermark) -> list[str]:
    header = ["change, of 255", "as they are", "changed", "marked", "changed, then marked"]
    header += ["bits read %", "refused: attacked", "refused: honest", "lost unnoticed"]
    row = [
        f"{w.epsilon:g}",
        *(str(rate) for rate in (w.clean, w.changed, w.marked, w.both)),
        f"{100 * w.bits:.0f}",
        *(str(rate) for rate in (w.alarm_caught, w.alarm_false, w.undetected)),
    ]
    return [
        "## Adversarial watermark",
        "",
        f"Share of probes that match another photo of the person at FMR {min(found.genuine):g}. The attacker knows the",
        f"message ({audits.PGD_STEPS} steps). The alarm compares a picture before and after the mark, and refuses 1 %",
        "of the attacker's honest pictures.",
        "",
        *common.table(header, [row]),
        "",
        common.verdict(
            "changed alone, probes match as before (5 points)",
            _holds(w.changed.share >= w.clean.share - 0.05, w.changed),
            f"{w.clean} as they are, {w.changed} changed",
        ),
        common.verdict(
            "marked alone, probes match as before (5 points)",
            _holds(w.marked.share >= w.clean.share - 0.05, w.marked),
            f"{w.clean} as they are, {w.marked} marked",
        ),
        common.verdict(
            "changed and marked, at most half still match",
            _holds(w.both.share <= w.clean.share / 2, w.both),
            f"{w.clean} as they are, {w.both} both",
        ),
        common.verdict(
            "the alarm notices at least 90 % of attacked probes",
            _holds(w.alarm_caught.share >= 0.9, w.alarm_caught),
            str(w.alarm_caught),
        ),
    ]


if __name__ == "__main__":
    main()
