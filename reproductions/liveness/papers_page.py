"""The page of the six papers: leaks, every system by every protocol, cost, and what became of each claim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.data.inner_faces import SPEC, face_only_photo, oval
from facewright.data.people import read_rgb
from facewright.evaluation.liveness import Estimate, Protocol, VideoScores, over_protocols
from facewright.systems.base import System, system_class
from facewright.systems.liveness.livecheck.network import LiveCheck
from facewright.systems.liveness.minifasnet.network import MiniFASNet, MiniFASNetConfig
from facewright.training.trainer import Recipe, build_config

from .. import common
from ..common import Verdict
from . import features
from .arms import RECIPES, distances
from .leaks import leaks_of
from .papers import FEW, ORDER, PAGE, Settings, complete, key, plan, protocols_of
from .run import Machine, milliseconds, percent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from facewright.data.liveness import PackedCrops
    from facewright.data.presentation import FoundFrames
    from facewright.face import Face

    Floats = NDArray[np.float64]

Found = dict[str, dict[str, list[VideoScores]]]
"""Of every system (an arm), of every protocol: one for each seed."""
UNSEEN = tuple(name for name in ORDER if name.startswith("unseen"))
_CHANCE = 0.5
NAMES = {
    "lbp": "LBP + SVM",
    "lbp_distance": "LBP, distance from live people",
    "embedded": "LiveCheck as it ships, surroundings greyed",
    "minifasnet": "MiniFASNet as published, surroundings greyed",
    "cnn": "plain CNN (ResNet-10)",
    "livecheck": "LiveCheck, taught by the protocol",
    "dlif": "**DLIF**",
    "dlif_coarse": "DLIF, kinds of lighting as domains",
    "dlif_plain": "its encoder alone",
    "hypoc": "**Hyp-OC** (live people alone)",
    "hypoc_plain": "its layers with a linear classifier",
    "hypoc_distance": "distances of its encoder's features",
    "iadg": "**IADG**",
    "iadg_kernels": "IADG without styles and whitening",
    "iadg_plain": "IADG without kernels, styles and whitening",
    "clipc8": "**CLIPC8**",
    "clipc8_plain": "its image tower with a linear layer",
    "ifas": "**I-FAS**",
    "ifas_judge": "I-FAS without captions",
    "ifas_plain": "its transformer with a linear layer",
    "ensemble": "**DLE**",
    "mean": "mean of its three networks",
    "bilstm": "its bidirectional LSTM",
    "gru": "its GRU",
    "lstm": "its LSTM",
    "still": "its frames' mean with a linear layer",
}
CLAIMS = (
    ("DLIF: people as domains and what is no liveness kept apart help", "dlif", "dlif_plain"),
    ("DLIF: people are better domains than kinds of lighting", "dlif", "dlif_coarse"),
    ("Hyp-OC: the ball beats a linear classifier on the same layers", "hypoc", "hypoc_plain"),
    ("Hyp-OC: it beats distances of the same encoder's features", "hypoc", "hypoc_distance"),
    ("IADG: kernels, styles and whitening of every picture help", "iadg", "iadg_plain"),
    ("IADG: styles and whitening help beside the kernels", "iadg", "iadg_kernels"),
    ("CLIPC8: sentences of categories beat a plain head", "clipc8", "clipc8_plain"),
    ("I-FAS: captions beat a plain head", "ifas", "ifas_plain"),
    ("I-FAS: captions beat yes or no alone", "ifas", "ifas_judge"),
    ("DLE: the last network beats the bidirectional LSTM", "ensemble", "bilstm"),
    ("DLE: it beats the GRU", "ensemble", "gru"),
    ("DLE: it beats the LSTM", "ensemble", "lstm"),
    ("DLE: sequences beat the frames' mean", "ensemble", "still"),
)
"""What each paper says, the arm of its idea, and the arm without it."""


def collected(s: Settings, inner: PackedCrops, done: Mapping[str, dict[str, Any]]) -> Found:
    """Scores of the trained arms."""
    protocols, found = protocols_of(inner), Found()
    for arm, by, seed in plan(s):
        result = done.get(key(arm, by, seed))
        if result is None:
            continue
        protocol = protocols[by]
        left = protocol.development | protocol.test
        for part, scores in result["scores"].items():
            whole = np.full(len(inner), np.nan)
            whole[left] = np.array(scores, np.float64)
            found.setdefault(part, {}).setdefault(by, []).append(tested(protocol, whole, inner))
    return found


def tested(protocol: Protocol, scores: Floats, inner: PackedCrops) -> VideoScores:
    return VideoScores.of(protocol, scores, inner.species, inner.person, inner.video)


def baselines(
    args: argparse.Namespace, names: Sequence[str], inner: PackedCrops, faces: FoundFrames, found: Found
) -> None:
    """Systems that need no training, or hardly any."""
    protocols = protocols_of(inner)
    inside = oval()
    texture = features.binary_patterns(inner.images, np.asarray(inside))
    machine = Machine(texture, ~inner.live)
    scores: dict[str, Callable[[Protocol], Floats]] = {
        "lbp": lambda p: machine(p.train),
        "lbp_distance": lambda p: distances(texture, texture[p.train & inner.live]),
    }
    rows = np.flatnonzero(inner.side != "train")
    for name, values in given(args, faces, rows).items():
        whole = np.full(len(inner), np.nan)
        whole[rows] = values
        scores[name] = lambda p, whole=whole: whole  # type: ignore[misc]
    for name, score in scores.items():
        for by in names:
            found.setdefault(name, {})[by] = [tested(protocols[by], score(protocols[by]), inner)]


def given(args: argparse.Namespace, faces: FoundFrames, rows: NDArray[np.int64]) -> dict[str, list[float]]:
    """Scores of networks that come with weights; remembered beside the arms. A quick run leaves them out."""
    if args.quick:
        return {}
    networks: dict[str, list[Any]] = {"embedded": [LiveCheck.from_pretrained()]}
    if args.minifasnet:
        networks["minifasnet"] = [MiniFASNet.from_pretrained(path).eval() for path in args.minifasnet]
    kept = common.Arms(common.arms_file(args, f"{PAGE}-given"), Given(tuple(networks), len(rows)), 1)
    found = kept.run("surroundings greyed", greyed_scores, Path(args.replay), faces, rows, networks)
    return {name: found[name] for name in networks}


@dataclass(frozen=True)
class Given:
    """Which networks were asked about how many frames."""

    networks: tuple[str, ...]
    frames: int


def greyed_scores(
    root: Path, found: FoundFrames, rows: NDArray[np.int64], networks: Mapping[str, Sequence[Any]]
) -> dict[str, list[float]]:
    """Scores of attack, one a row, of systems with crops of their own, on frames with all but the inner face greyed."""
    scores: dict[str, list[float]] = {name: [] for name in networks}
    for row in rows:
        face: Face = found.face(int(row))
        photo = face_only_photo(read_rgb(root / str(found.frames[row])), face)
        for name, together in networks.items():
            scores[name].append(1 - float(np.mean([one.live(photo, [face])[0] for one in together])))
    return scores


def estimate(found: Found, arm: str, names: Sequence[str], measure: Any = "hter", other: str = "") -> Estimate | None:
    """Over the protocols that an arm (and the other one) has all of, and over their common seeds."""
    mine, theirs = found.get(arm, {}), found.get(other, {})
    usable = [n for n in names if n in mine and (not other or n in theirs)]
    if not usable:
        return None
    seeds = min(min(len(mine[n]), len(theirs[n]) if other else len(mine[n])) for n in usable)
    tests = [mine[n][i] for n in usable for i in range(seeds)]
    against = [theirs[n][i] for n in usable for i in range(seeds)] if other else []
    return over_protocols(tests, against, measure=measure)


def written(found: Estimate | None) -> str:
    return f"{percent(found.value)} ({percent(found.low)} to {percent(found.high)})" if found else "–"


def rows_of(
    found: Found, names: Sequence[str], unseen: Sequence[str], costs: Mapping[str, tuple[str, str]]
) -> list[list[str]]:
    """The large table; means are over the unseen protocols of which all arms are done."""
    rows = []
    for arm, name in NAMES.items():
        if arm not in found:
            continue
        cells = [written(estimate(found, arm, [by])) for by in names]
        whole = bool(unseen) and all(by in found[arm] for by in unseen)
        mean, area = (written(estimate(found, arm, unseen, measure)) if whole else "–" for measure in ("hter", "auc"))
        rows.append([name, *cells, mean, area, *costs.get(arm, ("", ""))])
    return rows


def verdict_of(found: Found, claim: tuple[str, str, str]) -> str | None:
    """A claim holds where the mean HTER falls for nearly all resamples of people; not where it does not fall.

    Inconclusive where it falls less surely, or where neither arm's area under the curve is above chance; None where an
    arm is missing.
    """
    name, arm, other = claim
    both = [by for by in UNSEEN if by in found.get(arm, {}) and by in found.get(other, {})]
    gain = estimate(found, other, both, other=arm)
    mine, theirs = (estimate(found, one, both) for one in (arm, other))
    areas = [estimate(found, one, both, "auc") for one in (arm, other)]
    if gain is None or mine is None or theirs is None:
        return None
    numbers = f"mean HTER {percent(mine.value)} % against {percent(theirs.value)} %, lower by {written(gain)}"
    runs = min(len(found[one][by]) for one in (arm, other) for by in both)
    numbers += f"; protocols: {len(both)}, seeds: {runs}"
    if all(area is None or area.low <= _CHANCE for area in areas):
        return common.verdict(name, Verdict.INCONCLUSIVE, numbers + "; neither is above chance")
    fewer = Verdict.INCONCLUSIVE if gain.value > 0 else Verdict.NOT_REPRODUCED
    return common.verdict(name, Verdict.REPRODUCED if gain.low > 0 else fewer, numbers)


# --- cost ------------------------------------------------------------------------------------------------------------


def cost_of(
    network: System, work: Callable[[torch.Tensor], object], parts: Sequence[torch.nn.Module]
) -> tuple[str, str]:
    """Milliseconds of one face and megabytes of the weights that are needed, two bytes each."""
    crop = np.full((1, SPEC.size, SPEC.size, 3), 128, np.uint8)
    with torch.inference_mode():
        spent = milliseconds(lambda: work(network.normalise(crop)))
    count = sum(p.numel() for part in parts for p in part.parameters())
    return f"{spent:.1f}", f"{2 * count / 1e6:.2f}"


def costs_of(inner: PackedCrops) -> dict[str, tuple[str, str]]:
    """Of the systems as they were trained here."""
    made: dict[str, Any] = {}
    for slug in ("dlif", "hypoc", "iadg", "clipc8", "ifas", "dle"):
        recipe, cls = Recipe.load(RECIPES / f"{slug}-compact.yaml"), system_class(slug)
        made[slug] = cls(build_config(cls, recipe.config or {"preset": "compact"})).eval()
    dlif, hypoc, iadg, clip, ifas, dle = made.values()
    found = {
        "dlif": cost_of(dlif, dlif, [dlif.liveness, dlif.classify]),
        "hypoc": cost_of(hypoc, hypoc, [hypoc]),
        "iadg": cost_of(iadg, iadg.score, [iadg.features, iadg.classify, iadg.depth]),
        "clipc8": cost_of(clip, clip, [clip.image]),
        "ifas": cost_of(ifas, ifas, [ifas]),
        "ensemble": cost_of(dle, lambda x: dle(x[None]), [dle]),
    }
    trunk = common.SmallResNet(64, 16).eval()
    check = LiveCheck.from_pretrained()
    one = inner.images[:1]
    large = np.full((1, check.config.size, check.config.size, 3), 128, np.uint8)
    found["cnn"] = cost_of(iadg, trunk, [trunk])
    found["embedded"] = (
        f"{milliseconds(lambda: check.cell_logits(large)):.1f}",
        f"{2 * sum(p.numel() for p in check.parameters()) / 1e6:.2f}",
    )
    pair = [MiniFASNet(config).eval() for config in (MiniFASNetConfig.v2(), MiniFASNetConfig.v1se())]
    crop = np.full((1, pair[0].config.size, pair[0].config.size, 3), 128, np.uint8)
    found["minifasnet"] = (
        f"{milliseconds(lambda: [one.logits(crop) for one in pair]):.1f}",
        f"{2 * sum(p.numel() for one in pair for p in one.parameters()) / 1e6:.2f}",
    )
    found["lbp"] = (f"{milliseconds(lambda: features.binary_patterns(one)):.1f}", "0.00")
    return found


def not_run(s: Settings, names: Sequence[str]) -> list[str]:
    """A sentence on the protocols that the command knows and that were not run."""
    left = [f"“{name}”" for name in s.protocols[:-1] if name not in names]
    left += ["few people"] if s.protocols[-1] not in names else []
    return [f"Not run for want of time: {', '.join(left)}."] if left else []


# --- page ------------------------------------------------------------------------------------------------------------


def report(
    args: argparse.Namespace, s: Settings, inner: PackedCrops, faces: FoundFrames, done: Mapping[str, dict[str, Any]]
) -> list[str]:
    found = collected(s, inner, done)
    names = [name for name in s.protocols if any(name in tests for tests in found.values())]
    unseen = [name for name in UNSEEN if name in complete(s, done)]
    baselines(args, names, inner, faces, found)
    leak_rows, leaks = leaks_of(Path(args.replay), faces, inner)
    header = ["system", *names, f"mean of {len(unseen)} unseen", f"AUC % of {len(unseen)} unseen", "ms a face", "MB"]
    claims = [line for claim in CLAIMS if (line := verdict_of(found, claim))]
    count = max(len(tests) for by in found.values() for tests in by.values())
    seeds = "One seed, where a claim does not say otherwise." if count > 1 else "One seed."
    trained = sum(float(result["seconds"]) for result in done.values()) / 60
    return [
        "# Six papers on liveness",
        "",
        "Made by `python -m reproductions.liveness.papers` (`reproductions/liveness`).",
        "",
        "Does each paper's idea help where the instrument or the lighting was never seen? Replay-Attack: 15 clients",
        "teach, 5 set thresholds, 10 are tested; nobody is on two sides. Every system sees the same: the inner face,",
        "from the brows to the chin, put in place by five landmarks and reduced to 64 px; around it is one grey. Five",
        "frames of every video, at the same times whatever its length. Each paper's network in its compact",
        "configuration is trained by its recipe (`recipes/<system>-compact.yaml`), and beside it the same network",
        "without the paper's idea, on the same data for as many steps.",
        f"{seeds} All trainings together took {trained:.0f} minutes of a",
        "busy processor core: these networks are small, from scratch, and briefly trained, and say nothing of what the",
        "papers' own reach.",
        "",
        "## Leaks",
        "",
        "Classifiers that are shown anything but the face, tested on unseen clients with known instruments; near 50",
        "nothing leaks. In the frames the room and the size of the face tell attacks. In the inner faces the room is",
        "gone, and the file and the landmarks tell little or nothing. What stays: the mean colours, because prints and",
        "screens have theirs; and a regression that learns the face's size within live people and within attacks",
        "alone, so not from their difference, still ranks attacks above live people. It goes by sharpness, which size",
        "and recapture both change: how much of the size is left cannot be told from how soft recaptured faces are.",
        "",
        *common.table(["what it sees", "of", "HTER % (95 %)", "AUC %"], leak_rows),
        "",
        f"Of live tested people the told size and the true one correlate by {leaks['size told, correlation']:.2f}.",
        "",
        "## All systems",
        "",
        "HTER in percent at the development side's equal error threshold, with the range of 95 % of the resamples of",
        "tested people. “Unseen” names an instrument, or a lighting, that is in the test alone. Below each paper, in",
        "bold, stand the arms without its idea. LiveCheck as it ships and MiniFASNet were not taught here: LiveCheck",
        "knows all instruments and both kinds of lighting, and both networks are used to what is around a face.",
        *([f"“{FEW} people” teaches with that many."] if s.protocols[-1] in names else []),
        "",
        *common.table(header, rows_of(found, names, unseen, costs_of(inner))),
        "",
        "## Claims",
        "",
        "Each of the unseen protocols that both arms were trained by counts alike. A claim is reproduced where the",
        "mean HTER is lower in 95 % of the resamples, which draw the same people for both arms; not where it is no",
        "lower at all; inconclusive where it is lower, but not so surely, or where neither arm is above chance. The",
        "ranges are of the tested people alone: what another seed of the training would change, they do not show.",
        "",
        *claims,
        "",
        "Not tested here: that frames a second apart tell more than adjacent ones (DLE), because the collection at",
        "hand has no adjacent frames; that more people as domains help more (DLIF);",
        "the connector and the filter of captions (I-FAS), whose captions are made from the collection's own labels,",
        "and so are never wrong; five of CLIPC8's eight categories, which have no pictures.",
        *not_run(s, names),
        *([] if args.minifasnet else ["MiniFASNet was left out: its published weights were not given."]),
    ]
