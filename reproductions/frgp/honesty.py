"""Never another person: how often is a restored face less alike than the damaged one, and does its warning say so?

    python -m reproductions.frgp.honesty --write

Two recognisers compare the damaged and the restored face with the true one. Then the simplest rule is looked for that
knows only what is known when a face is restored and catches most of the faces that became less alike; it is fitted on
training people and judged on validation people. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facewright.loading import load_pipeline
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.restore import GOOD_SSIM, warnings_for
from facewright.systems.base import batches

from .. import common
from .evaluate import BATCH, in_batches, load
from .identity import judges, recogniser_crops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from facewright.data.split import Split
    from facewright.pipelines.restore import RestorePipeline

    Judge = Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]]
    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]

DAMAGES = ("mild@scaled", "vqfr@scaled", "vqfr", "severe@scaled", "severe", "far")
COLLECTIONS = ("lfw", "utkface")
CLEARLY = 0.02  # of a cosine
CAUGHT = 0.8
OWN, OTHER = "distilledface", "vitfiqa"
KNOWN = ("psnr", "ssim", "noise_sigma", "downscale")
NAMES = ("estimated PSNR", "estimated SSIM", "estimated noise", "estimated reduction", "identity of input and output")


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """N restored faces: what was `known` of them (N, 5) in the order of `NAMES`, whether they were `warned` of (N,),
    and by how much the cosine to the true face changed by each judge (N, 2)."""

    known: Values
    warned: Flags
    change: Values

    @property
    def wanted(self) -> Flags:
        """Those that the pipeline would not leave alone as already good."""
        return np.asarray(self.known[:, KNOWN.index("ssim")] < GOOD_SSIM)

    @property
    def lost(self) -> Flags:
        """Those that became less alike by the mean of the judges."""
        return np.asarray(self.change.mean(1) < 0)

    def subset(self, chosen: Flags) -> Outputs:
        return Outputs(self.known[chosen], self.warned[chosen], self.change[chosen])


def joined(parts: Iterable[Outputs]) -> Outputs:
    """All of them in one."""
    columns = zip(*((part.known, part.warned, part.change) for part in parts))
    return Outputs(*(np.concatenate(column) for column in columns))


def recognisers(pipeline: RestorePipeline) -> dict[str, Judge]:
    """The pipeline's own recogniser and the independent one: unit embeddings of FFHQ crops."""
    own = pipeline.recogniser
    assert own is not None

    def by_own(faces: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.concatenate([own.embed(recogniser_crops(list(part))) for part in batches(faces, BATCH)])

    return {OWN: by_own, OTHER: judges()[OTHER]}


def observe(pipeline: RestorePipeline, seen_by: dict[str, Judge], split: Split, damage: str, count: int) -> Outputs:
    """Restore `count` faces of each collection, also those that the pipeline would leave alone."""
    pairs = [pair for name in COLLECTIONS for pair in load(split, {damage: 1.0}, count, name)]
    given, truths = [p[0] for p in pairs], [p[1] for p in pairs]
    restored = in_batches(pipeline.restorer.restore, given)
    estimates = [e for part in batches(given, BATCH) for e in pipeline.assess(np.stack(part))]
    vectors = {name: [judge(faces) for faces in (truths, given, restored)] for name, judge in seen_by.items()}
    change = np.stack([((after - before) * true).sum(1) for true, before, after in vectors.values()], 1)
    _, before, after = vectors[OWN]
    identity = (before * after).sum(1)
    assert pipeline.calibration is not None
    same = pipeline.calibration.probability(identity)
    warned = [bool(warnings_for(estimate, float(p))) for estimate, p in zip(estimates, same)]
    known = [[*(getattr(e, name) for name in KNOWN), i] for e, i in zip(estimates, identity)]
    return Outputs(np.array(known, float), np.array(warned), change.astype(float))


# --- rules


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Warn where the weighted sum of what is known reaches the limit."""

    weights: Values
    limit: float

    def fires(self, outputs: Outputs) -> Flags:
        return np.asarray(outputs.known @ self.weights >= self.limit)

    @property
    def formula(self) -> str:
        used = np.flatnonzero(self.weights)
        if len(used) == 1:
            weight = self.weights[used[0]]
            return f"{NAMES[used[0]]} {'≥' if weight > 0 else '≤'} {self.limit / weight:.3f}"
        return " ".join(f"{self.weights[i]:+.4f} · {NAMES[i]}" for i in used) + f" ≥ {self.limit:.4f}"

    @property
    def name(self) -> str:
        return self.formula if np.count_nonzero(self.weights) == 1 else "logistic regression on all"


def fit_rules(fitted: Outputs) -> list[Rule]:
    """A threshold on each single number, in the direction that fires less, and a logistic regression on all."""
    lost = fitted.lost
    if not 0 < lost.sum() < len(lost):
        raise SystemExit("a rule needs faces that became less alike and others; take more with --training")

    def rule(weights: Values) -> Rule:
        risks = np.sort((fitted.known @ weights)[lost])[::-1]
        return Rule(weights, float(risks[math.ceil(CAUGHT * len(risks)) - 1]))

    def firing(candidate: Rule) -> float:
        return float(candidate.fires(fitted).mean())

    single = [min((rule(unit), rule(-unit)), key=firing) for unit in np.eye(len(NAMES))]
    scaler, regression = StandardScaler(), LogisticRegression(class_weight="balanced")
    make_pipeline(scaler, regression).fit(fitted.known, lost)
    return sorted([*single, rule(regression.coef_[0] / scaler.scale_)], key=firing)


# --- the page


def percent(flags: Flags) -> str:
    return f"{100 * flags.mean():.0f} %" if len(flags) else "–"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def change_rows(found: dict[str, Outputs]) -> list[list[str]]:
    """By damage and judge: how many faces became less alike, and how often the warning said so."""
    rows = []
    for damage, outputs in found.items():
        for place, judge in enumerate((OWN, OTHER)):
            change = outputs.change[:, place]
            less, clearly = change < 0, change < -CLEARLY
            mean = bootstrap(change).text(3, sign=True) if len(change) else "–"
            warned = [percent(flags) for flags in (outputs.warned[less], outputs.warned[clearly], outputs.warned)]
            rows.append([damage, str(len(change)), judge, mean, percent(less), percent(clearly), *warned])
    return rows


def rule_row(name: str, fires: Callable[[Outputs], Flags], *parts: Outputs) -> list[str]:
    """What a rule catches and how often it fires, in each part."""
    fired = [(fires(part), part.lost) for part in parts]
    return [name, *(percent(flags) for fire, lost in fired for flags in (fire[lost], fire))]


def chosen_row(damage: str, fire: Flags, outputs: Outputs) -> list[str]:
    """The chosen rule at one damage."""
    clearly = outputs.change.mean(1) < -CLEARLY
    shares = (outputs.lost, fire[outputs.lost], clearly, fire[clearly], fire)
    return [damage, str(len(fire)), *(percent(flags) for flags in shares)]


def page(judged: dict[str, Outputs], fitted: Outputs, command: str) -> str:
    """The Markdown page of the results."""
    heads = ["damage", "faces", "judge", "change of cosine", "less alike", f"by more than {CLEARLY:g}"]
    heads += ["warned: less alike", f"warned: by more than {CLEARLY:g}", "warned: all"]
    restored = {damage: outputs.subset(outputs.wanted) for damage, outputs in judged.items()}
    rules, everything = fit_rules(fitted), joined(restored.values())
    rows = [rule_row(rule.name, rule.fires, fitted, everything) for rule in rules]
    rows.append(rule_row("warning of today", lambda outputs: outputs.warned, fitted, everything))
    by_damage = (restored | {"all": everything}).items()
    alone = ", ".join(f"{damage} {percent(~outputs.wanted)}" for damage, outputs in judged.items())
    lines = [
        "# FRGP, embedded weights: never another person",
        "",
        f"Made by `{command}`.",
        "Validation people, half of LFW and half of UTKFace, 256-pixel crops. A face is *less alike* when the",
        "cosine of its embedding to the true face's is lower after restoring than before; 95 % bootstrap intervals",
        f"over faces. `{OWN}` is the pipeline's recogniser and was in the restorer's loss in an earlier state;",
        f"`{OTHER}` never was, but both learned from one teacher. *Warned* is how often the report of such faces has a",
        "warning.",
        "",
        f"The pipeline leaves faces alone that are already good: {alone}.",
        "First those that it restores:",
        "",
        *table(heads, change_rows(restored)),
        "",
        "The same when every face is forced through the network:",
        "",
        *table(heads, change_rows(judged)),
        "",
        "## A rule that warns",
        "",
        f"On {len(fitted.lost)} restored faces of training people, every rule is set to catch {100 * CAUGHT:.0f} %",
        f"of the {fitted.lost.sum()} that became less alike by the mean of both judges. The first fires least there",
        "and is chosen.",
        "",
        *table(["rule", "caught, training", "fires, training", "caught, validation", "fires, validation"], rows),
        "",
        f"The chosen rule on validation people. It fires where {rules[0].formula}.",
        "",
        *table(
            ["damage", "faces", "less alike", "caught", f"by more than {CLEARLY:g}", "caught", "fires"],
            [chosen_row(damage, rules[0].fires(outputs), outputs) for damage, outputs in by_damage],
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("--faces", type=int, default=150, help="validation faces of each collection and damage")
    parser.add_argument("--training", type=int, default=150, help="the same of training people, for the rule")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    options = parser.parse_args()
    common.begin(options)
    pipeline: Any = load_pipeline(weights=options.weights)
    seen_by = recognisers(pipeline)
    judged, training = {}, []
    for damage in DAMAGES:
        judged[damage] = observe(pipeline, seen_by, "val", damage, options.faces)
        training.append(observe(pipeline, seen_by, "train", damage, options.training))
        print(f"{damage}: {percent(judged[damage].lost)} less alike", flush=True)
    fitted = joined(part.subset(part.wanted) for part in training)
    given = f"--faces {options.faces} --training {options.training}"
    text = page(judged, fitted, f"python -m reproductions.frgp.honesty {given}")
    common.finish(options, "frgp-honesty", text, ["frgp", "distilledface", "vitfiqa"], given=given)


if __name__ == "__main__":
    main()
