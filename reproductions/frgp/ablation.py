"""What each idea of FRGP is worth: the MMRB codec, self-supervision, and the prior, by pose and by severity.

    python -m reproductions.frgp.ablation [--quick] [--seeds 3] [--write]

Networks of 64 px and about 0.93 M + 0.53 M parameters learn from photos of LFW and rendered faces turned by up to 75°,
damaged severely, and are judged on other people. A small StyleGAN2 is trained first for every seed, and taken by all
arms but one. Nothing that judges (recogniser, landmarker) is in any loss. Needs the labelled face collections
(FACEWRIGHT_DATA); less than half an hour a seed on one processor core. `--write` writes the report and its figures
into the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facewright import create
from facewright.data.faces import data_cache, data_root
from facewright.data.parsing import parsing_renders
from facewright.data.restoration import Curriculum, open_crops
from facewright.data.samplers import YAW_EDGES, WeightedDraw, inverse_share_weights, yaw_bins
from facewright.degrade import Preset, apply, eased, sample
from facewright.geometry.crop import align_matrix
from facewright.geometry.resample import crop_by_matrix, recut
from facewright.geometry.templates import template_points
from facewright.losses.adversarial import r1_penalty, softplus_discriminator, softplus_generator
from facewright.metrics import psnr
from facewright.metrics.curves import Axis, Curve, draw, save_figure
from facewright.metrics.identity import identity_similarity
from facewright.metrics.uncertainty import Estimate, bootstrap
from facewright.nn.inference import has_bf16
from facewright.nn.stylegan2 import Discriminator, Generator
from facewright.systems.landmarks.facewarp.network import aligned_crop
from facewright.systems.restore.frgp.network import FRGP, FRGPConfig
from facewright.systems.restore.frgp.training import FRGPTwoStageTraining
from facewright.systems.restore.gfpgan.network import GFPGAN, GFPGANConfig
from facewright.training.trainer import Batch, Ema
from facewright.weights.store import load_file, save_file

from .. import common
from ..common import Arms, Images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.data.split import Split
    from facewright.systems.restore.gfpgan.network import EncoderBlock

    Values = NDArray[np.float64]

SLUG = "frgp-ablation"
TITLE = "FRGP: codec, self-supervision and prior"
SIZE = 64
FINER = 2  # crops are cut this much larger and reduced by area
MOST_YAW = 75.0
TURNED = 30.0
SEVERE = Preset("severe, 64 px", sigma=(0.2, 3), down=(1, 6), noise=(0, 20), jpeg=(30, 90), kernel_sizes=(21,))
STYLE, NARROW = 128, 0.125

ARMS = {
    "A": "U-Net codec (GFPGAN)",
    "B": "A with MMRBs in its encoder",
    "C": "asymmetric codec of MMRBs",
    "D": "C, self-supervised",
    "E": "D without a prior",
    "F": "C by its latent alone",
}
MEASURES = {"psnr": "PSNR, dB", "identity": "identity, cosine", "landmarks": "landmarks, px"}
THIRDS = ("severe", "medium", "mild")


@dataclass(frozen=True)
class Settings:
    """Sizes of an experiment.

    `prior_steps`, `steps`: of the prior and of every arm. `renders`: their share of the pictures. `photos`: of the
    test, besides all turned ones and the renders; `most`: faces in the test. `late`: steps at the end over which the L1
    is averaged.
    """

    prior_steps: int = 400
    prior_batch_size: int = 16
    steps: int = 350
    batch_size: int = 8
    lr: float = 2e-3
    renders: float = 0.3
    photos: int = 300
    most: int = 1000
    late: int = 100
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(prior_steps=8, prior_batch_size=8, steps=10, batch_size=4, most=48, late=5)


# --- faces


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """FFHQ crops (N, 64, 64, 3) uint8 RGB, where they show the picture (N, 64, 64), yaw in degrees, and which are
    rendered."""

    images: Images
    masks: NDArray[np.bool_]
    yaw: Values
    rendered: NDArray[np.bool_]

    def subset(self, chosen: NDArray[np.int64]) -> Faces:
        return Faces(self.images[chosen], self.masks[chosen], self.yaw[chosen], self.rendered[chosen])


def load_faces(split: Split) -> Faces:
    """Photos and renders of a split; prepared on first use."""
    path = data_cache() / f"frgp-ablation-{split}-{SIZE}.npz"
    if not path.exists():
        print(f"preparing the faces once: {path}", flush=True)
        parts = zip(*(_photos(split), _renders(split)))
        images, masks, yaw, rendered = (np.concatenate(part) for part in parts)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, images=images, masks=masks, yaw=yaw, rendered=rendered)
        temporary.replace(path)
    with np.load(path) as stored:
        return Faces(stored["images"], stored["masks"], stored["yaw"], stored["rendered"])


def _photos(split: Split) -> tuple[NDArray[Any], ...]:
    crops = open_crops("lfw", split, FINER * SIZE)
    pairs = [_reduced(*crops.crop(i)) for i in range(len(crops.rows))]
    yaw = np.asarray(crops.collection.labels["pose_yaw_pitch_roll_deg"], float)[crops.rows, 0]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]), yaw, np.zeros(len(pairs), bool)


def _renders(split: Split) -> tuple[NDArray[Any], ...]:
    shards = parsing_renders(split, data_root())
    pairs, yaws = [], []
    for i in range(len(shards)):
        truth = shards.truth(i)
        yaw = float(truth["pose"]["yaw"])
        if abs(yaw) <= MOST_YAW:
            matrix = align_matrix(np.asarray(truth["points5"]["xy"], np.float64), FINER * SIZE)
            crop = crop_by_matrix(shards.picture(i), matrix, FINER * SIZE)
            pairs.append(_reduced(crop.image, crop.valid))
            yaws.append(yaw)
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]), np.array(yaws), np.ones(len(pairs), bool)


def _reduced(image: Images, mask: NDArray[np.bool_]) -> tuple[Images, NDArray[np.bool_]]:
    small = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(mask.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA) > 1 - 1e-4
    return np.asarray(small, np.uint8), whole


class Draws:
    """Batches of a seed: batch k is a function of (seed, k). Poses are balanced among photos and among renders."""

    def __init__(self, faces: Faces, s: Settings, seed: int) -> None:
        weights = np.zeros(len(faces.yaw))
        for kind, share in ((False, 1 - s.renders), (True, s.renders)):
            members = faces.rendered == kind
            balanced = inverse_share_weights(yaw_bins(faces.yaw[members]))
            weights[members] = share * balanced / balanced.sum()
        self.faces, self.draw, self.seed = faces, WeightedDraw(weights), seed

    def truths(self, number: int, count: int) -> tuple[Images, NDArray[np.bool_], np.random.Generator]:
        """Crops, half of them mirrored, their masks, and the generator to go on with."""
        rng = np.random.default_rng((self.seed, number))
        chosen = np.array([self.draw(rng) for _ in range(count)])
        images, masks = self.faces.images[chosen].copy(), self.faces.masks[chosen].copy()
        flipped = rng.random(count) < 0.5
        images[flipped], masks[flipped] = images[flipped, :, ::-1], masks[flipped, :, ::-1]
        return images, masks, rng

    def batch(self, number: int, count: int, severity: float, *, views: int) -> Batch:
        """A training batch as `FRGPTwoStageTraining` takes it, damaged with that share of the full ranges."""
        images, masks, rng = self.truths(number, count)
        names = ("lq", "lq_second")[:views]
        found = {name: torch.from_numpy(damaged(images, rng, severity)) for name in names}
        return found | {"hq": torch.from_numpy(images), "mask": torch.from_numpy(masks[:, None])}


def damaged(images: Images, rng: np.random.Generator, severity: float = 1.0) -> Images:
    """Every crop damaged by a draw of its own; severity 0 leaves them as they are."""
    if severity == 0:
        return images
    rules = eased(SEVERE, severity)
    return np.stack([apply(image, sample(rules, rng, SIZE)) for image in images])


# --- the prior


def train_prior(faces: Faces, s: Settings, seed: int, path: Path) -> dict[str, Any]:
    """A StyleGAN2 by the non-saturating loss with R1 (every 16th step, as published); writes its running mean."""
    torch.manual_seed(seed)
    generator = Generator(SIZE, style_dim=STYLE, channel_multiplier=1, narrow=NARROW, upsample="bilinear")
    discriminator = Discriminator(SIZE, channel_multiplier=1, narrow=NARROW)
    paint, judge = (torch.optim.Adam(m.parameters(), 2e-3, betas=(0.0, 0.99)) for m in (generator, discriminator))
    mean, draws = Ema(generator, 0.99), Draws(faces, s, seed + 1000)
    for number in range(s.prior_steps):
        images, masks, _ = draws.truths(number, s.prior_batch_size)
        shown = torch.from_numpy(masks[:, None]).float()
        real = common.signed(images) * shown
        with half():
            fake = generator(generator.mapping(torch.randn(len(images), STYLE))) * shown
            loss = softplus_discriminator(discriminator(real).float(), discriminator(fake.detach()).float())
        if number % 16 == 0:
            asked = real.clone().requires_grad_()
            loss = loss + 0.5 * 10 * 16 * r1_penalty(discriminator(asked), asked)
        _step(judge, loss)
        discriminator.requires_grad_(False)
        with half():
            painted = softplus_generator(discriminator(fake).float())
        _step(paint, painted)
        discriminator.requires_grad_(True)
        mean.update_parameters(generator)
        _say("prior", number, s.prior_steps, painted)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(mean.shadow, path, {})
    return {"generator_loss": float(painted.detach()), "discriminator_loss": float(loss.detach())}


def load_prior(path: Path) -> Generator:
    prior = Generator(SIZE, style_dim=STYLE, channel_multiplier=1, narrow=NARROW, upsample="bilinear")
    prior.load_state_dict(load_file(path)[0])
    return prior


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _say(name: str, number: int, steps: int, loss: Tensor) -> None:
    if number % 50 == 49 or number == steps - 1:
        print(f"    {name}: {number + 1}/{steps}, loss {float(loss.detach()):.3f}", flush=True)


def half() -> torch.autocast:
    """bfloat16 arithmetic where the processor has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu")))


# --- the arms


class UNetCodec(GFPGAN):
    """GFPGAN, answering as FRGP does in training."""

    def forward(  # type: ignore[override]
        self, image: Tensor, *, fidelity: float = 1.0, return_aux: bool = False
    ) -> Any:
        restored, pyramid = super().forward(image, fidelity=fidelity, return_pyramid=True)
        return (restored, {"rgb_pyramid": pyramid}) if return_aux else restored


class LatentOnly(FRGP):
    """FRGP whose spatial conditions are always neutral: the picture speaks through the latent alone (as pSp)."""

    def forward(  # type: ignore[override]
        self, image: Tensor, *, fidelity: float | Tensor = 1.0, return_aux: bool = False
    ) -> Any:
        return super().forward(image, fidelity=0.0, return_aux=return_aux)


def build(arm: str, prior: Generator | None) -> Any:
    """The arm's network, its prior in place and its first output the prior's mean face."""
    if arm in "AB":
        block: EncoderBlock = "mmrb" if arm == "B" else "residual"
        return _unet(GFPGANConfig(SIZE, 1, NARROW, STYLE, encoder_block=block), prior)
    config = FRGPConfig(size=SIZE, channel_multiplier=1, narrow=NARROW, style_dim=STYLE)
    model = LatentOnly(config) if arm == "F" else FRGP(config)
    if prior is not None:
        model.adopt_prior(prior)
    return model


def _unet(config: GFPGANConfig, prior: Generator | None) -> UNetCodec:
    """GFPGAN as published starts at a random latent; here at the mean one with small changes, as the other arms."""
    assert prior is not None
    model, holder = UNetCodec(config), FRGP(FRGPConfig(config.size, 1, 1, config.narrow, config.style_dim))
    holder.adopt_prior(prior)
    model.generator.load_state_dict(holder.generator.state_dict())
    with torch.no_grad():
        model.get_parameter("to_latent.weight").mul_(0.1)
        bias = model.get_parameter("to_latent.bias")
        bias.copy_(holder.mean_latent.repeat(len(bias) // config.style_dim))
    return model


def run_arm(faces: Faces, tests: Faces, s: Settings, arm: str, seed: int, prior_path: Path) -> dict[str, Any]:
    """Train an arm and judge it."""
    torch.manual_seed(seed)
    model = build(arm, None if arm == "E" else load_prior(prior_path))
    supervised = arm in "DE"
    options: dict[str, Any] = {"perceptual_weight": 0.0, "identity_weight": 0.0, "gan_from": 0.5}
    if supervised:
        options |= {"alignment_weight": 0.1, "agreement_weight": 0.1, "teacher_decay": 0.99}
    if arm == "E":
        options |= {"prior_from": 0.0, "prior_rate": 1.0}
    training = FRGPTwoStageTraining(model, lr=s.lr, **options)
    curriculum = Curriculum(s.steps) if supervised else None
    errors = fit(ARMS[arm], training, Draws(faces, s, seed), curriculum, s)
    measured = measure(model.eval(), tests)
    late = float(np.mean(errors[-s.late :]))
    means = {name: float(np.mean(values)) for name, values in measured.items()}
    return means | {"late_l1": late, "parameters": _count(model), "faces": measured}


def fit(name: str, training: Any, draws: Draws, curriculum: Curriculum | None, s: Settings) -> list[float]:
    """Train with a cosine and leave the running mean of the weights in the model; returns the L1 of every step."""
    optimisers = training.optimisers()
    rates = {key: [group["lr"] for group in o.param_groups] for key, o in optimisers.items()}
    mean, errors = Ema(training.model, 0.98), []

    def update(key: str, loss: Tensor) -> None:
        optimiser = optimisers[key]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
        optimiser.step()

    for number in range(s.steps):
        factor = min(1.0, (number + 1) / 20) * 0.5 * (1 + np.cos(np.pi * number / s.steps))
        for key, optimiser in optimisers.items():
            for group, rate in zip(optimiser.param_groups, rates[key]):
                group["lr"] = rate * factor
        severity = 1.0 if curriculum is None else curriculum.severity(number)
        batch = draws.batch(number, s.batch_size, severity, views=2 if training.agreement_weight else 1)
        with half():
            logs = training.step(batch, update, number / s.steps)
        mean.update_parameters(training.model)
        errors.append(float(logs["l1"]))
        _say(name, number, s.steps, logs["l1"])
    training.model.load_state_dict({k: mean.shadow.get(k, v) for k, v in training.model.state_dict().items()})
    return errors


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- judging


def test_faces(s: Settings) -> Faces:
    """Renders of other people, all turned photos of the validation people, and some others of theirs."""
    faces = load_faces("val")
    turned = (np.abs(faces.yaw) > TURNED) & ~faces.rendered
    others = np.random.default_rng(0).permutation(np.flatnonzero(~turned & ~faces.rendered))[: s.photos]
    chosen = np.concatenate([others, np.flatnonzero(turned), np.flatnonzero(faces.rendered)])
    return faces.subset(np.sort(np.random.default_rng(1).permutation(chosen)[: s.most]))


@cache
def inputs_of(tests: Faces) -> tuple[Images, Values]:
    """The damaged test faces, the same for all arms, and their PSNR."""
    low = damaged(tests.images, np.random.default_rng(7))
    return low, _psnr(low, tests)


def measure(model: Any, tests: Faces) -> dict[str, list[float]]:
    """PSNR, cosine to the true face by the embedded recogniser, landmarks' distance in px of the crop; face by face."""
    low, _ = inputs_of(tests)
    restored = np.concatenate([model.restore(low[i : i + 32]) for i in range(0, len(low), 32)])
    return {name: np.round(values, 4).tolist() for name, values in compare(restored, tests).items()}


def compare(images: Images, tests: Faces) -> dict[str, Values]:
    points, wanted = _points(images), _true_points(tests)
    return {
        "psnr": _psnr(images, tests),
        "identity": identity_similarity(_recogniser(), _recogniser_crops(images), _recogniser_crops(tests.images)),
        "landmarks": np.linalg.norm(points - wanted, axis=2).mean(1),
    }


def _psnr(images: Images, tests: Faces) -> Values:
    triples = zip(images, tests.images, tests.masks)
    return np.array([psnr(a, b, data_range=255, mask=mask) for a, b, mask in triples])


@cache
def _recogniser() -> Any:
    return create("distilledface", pretrained=True)


@cache
def _landmarker() -> Any:
    return create("facewarp", pretrained=True)


def _recogniser_crops(images: Images) -> Images:
    return recut(images, "arcface", 112)


def _points(images: Images) -> NDArray[np.float32]:
    """Landmarks (N, 68, 2) in pixels of the crops, up to a common shift."""
    side = _landmarker().config.size
    matrix = aligned_crop(side).align(template_points("ffhq", SIZE))
    crops = np.stack([crop_by_matrix(image, matrix, side).image for image in images])
    return np.asarray(_landmarker().landmarks(crops).points / np.hypot(*matrix[0, :2]), np.float32)


@cache
def _true_points(tests: Faces) -> NDArray[np.float32]:
    return _points(tests.images)


# --- the report


class Bin(NamedTuple):
    """A part of the test faces."""

    name: str
    members: NDArray[np.bool_]


def bins_of(tests: Faces) -> list[Bin]:
    """All, four bins of |yaw|, those turned by more than 30°, and thirds by the PSNR of the input."""
    edges = ["0", *(f"{edge:g}" for edge in YAW_EDGES)]
    names = [f"{low}–{high}°" for low, high in zip(edges, edges[1:])] + [f"{edges[-1]}–{MOST_YAW:g}°"]
    number = yaw_bins(tests.yaw)
    _, given = inputs_of(tests)
    third = np.digitize(given, np.quantile(given, (1 / 3, 2 / 3)))
    poses = [Bin(name, number == i) for i, name in enumerate(names)]
    severities = [Bin(name, third == i) for i, name in enumerate(THIRDS)]
    everyone = Bin("all", np.ones(len(given), bool))
    return [b for b in (everyone, *poses, turned(tests), *severities) if b.members.any()]


def turned(tests: Faces) -> Bin:
    return Bin(f"over {TURNED:g}°", np.abs(tests.yaw) > TURNED)


class Results:
    """Face by face values of all arms, averaged over the seeds."""

    def __init__(self, runs: dict[str, list[dict[str, Any]]], tests: Faces) -> None:
        self.runs, self.tests, self.bins = runs, tests, {b.name: b.members for b in bins_of(tests)}
        self.values = {
            (arm, name): np.mean([run["faces"][name] for run in results], 0)
            for arm, results in runs.items()
            for name in MEASURES
        }

    def mean(self, arm: str, name: str, part: str) -> float:
        return float(self.values[arm, name][self.bins[part]].mean())

    def gain(self, better: str, worse: str, name: str, part: str = "all") -> Estimate:
        """How much better the first arm is, face by face, with its 95 % interval; smaller distances count as better."""
        sign = -1 if name == "landmarks" else 1
        return bootstrap(sign * (self.values[better, name] - self.values[worse, name])[self.bins[part]])

    def spread(self, arm: str) -> float:
        return float(np.std([run["late_l1"] for run in self.runs[arm]], ddof=1))


def verdicts(r: Results) -> list[str]:
    """What has to hold if the ideas are worth their names."""
    lines = []
    for part in (f"over {TURNED:g}°", "severe"):
        for name in ("identity", "landmarks"):
            gain = r.gain("D", "A", name, part)
            claim = f"self-supervised MMRB codec above the U-Net, {MEASURES[name]}, {part}"
            lines.append(common.verdict(claim, gain.low > 0, f"{gain.text(3, sign=True)}, {gain.count} faces"))
    plain = {
        "self-supervision does not cost": ("D", "C"),
        "MMRBs in the U-Net's encoder do not cost": ("B", "A"),
    }
    for claim, (better, worse) in plain.items():
        gains = {name: r.gain(better, worse, name) for name in MEASURES}
        text = "; ".join(f"{MEASURES[name]} {gain.text(3, sign=True)}" for name, gain in gains.items())
        lines.append(common.verdict(claim, all(gain.mean >= 0 for gain in gains.values()), text))
    prior = {name: r.gain("D", "E", name, "severe") for name in ("identity", "landmarks")}
    text = "; ".join(f"{MEASURES[name]} {gain.text(3, sign=True)}" for name, gain in prior.items())
    lines.append(common.verdict("the prior helps where damage is severe", all(g.low > 0 for g in prior.values()), text))
    losses = {arm: r.gain(arm, "F", "psnr") for arm in ARMS if arm != "F"}
    text = "; ".join(f"{arm} {gain.text(2, sign=True)} dB" for arm, gain in losses.items())
    lines.append(common.verdict("the latent alone loses PSNR to all", all(g.low > 0 for g in losses.values()), text))
    if len(r.runs["D"]) > 1:
        text = f"spread over seeds of the last L1 {r.spread('D'):.4f} against {r.spread('C'):.4f}"
        lines.append(common.verdict("self-supervision makes training more stable", r.spread("D") < r.spread("C"), text))
    else:
        lines.append("- whether self-supervision makes training more stable needs more than one seed")
    return lines


def report(r: Results, s: Settings) -> list[str]:
    tests = r.tests
    damage = compare(inputs_of(tests)[0], tests)
    lines = [
        f"# {TITLE}",
        "",
        f"{int((~tests.rendered).sum())} photos and {int(tests.rendered.sum())} renders of people that no network "
        f"saw; {len(s.seeds)} seed(s), {s.prior_steps} steps of the prior, {s.steps} steps of every arm at batch "
        f"{s.batch_size}. Severity thirds are by the PSNR of the input. Identity by the embedded recogniser, landmarks "
        "by the embedded landmarker on the true crop; neither is in a loss.",
        "",
        *common.table(
            ["arm", "", "parameters, M", "L1 at the end"],
            [
                [
                    arm,
                    name,
                    f"{r.runs[arm][0]['parameters'] / 1e6:.2f}",
                    common.mean_std([x["late_l1"] for x in r.runs[arm]], 1, 4),
                ]
                for arm, name in ARMS.items()
            ],
        ),
    ]
    header = [f"{name} ({int(members.sum())})" for name, members in r.bins.items()]
    for name, title in MEASURES.items():
        given = ["input", *(f"{damage[name][members].mean():.3f}" for members in r.bins.values())]
        rows = [[arm, *(f"{r.mean(arm, name, part):.3f}" for part in r.bins)] for arm in ARMS]
        lines += ["", f"## {title}", "", *common.table(["arm", *header], [given, *rows])]
        gains = [f"{r.gain('D', 'A', name, part).text(3, sign=True)}" for part in r.bins]
        lines += ["", "D better than A by: " + ", ".join(f"{p} {g}" for p, g in zip(r.bins, gains)) + "."]
    return [*lines, "", "## Verdicts", "", *verdicts(r), ""]


def figures(r: Results, folder: Path) -> list[str]:
    """Identity over pose and over severity; returns the lines that show them."""
    groups = {
        "pose": [part for part in r.bins if "–" in part],
        "severity": [part for part in r.bins if part in THIRDS],
    }
    lines = []
    for group, parts in groups.items():
        rows = {f"{arm}: {name}": [r.mean(arm, "identity", part) for part in parts] for arm, name in ARMS.items()}
        low = np.floor(10 * min(map(min, rows.values()))) / 10
        high = np.ceil(10 * max(map(max, rows.values()))) / 10
        places = np.arange(len(parts), dtype=float)
        ticks = [part.replace("–", " to ") for part in parts]  # the font of figures has no dash of that length
        x = Axis(f"by {group}", -0.2, len(parts) - 0.8, dict(zip(places.tolist(), ticks)))
        y = Axis("identity, cosine", low, high, {v: f"{v:.1f}" for v in np.arange(low, high + 0.05, 0.1).tolist()})
        curves = {name: Curve(places, np.array(values), dots=True) for name, values in rows.items()}
        path = folder / f"{SLUG}-{group}.png"
        save_figure(draw(curves, x, y, title=TITLE), path, overwrite=True)
        lines += [f"![Identity by {group}](../images/{path.name})", ""]
    return lines


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="runs of every arm")
    args = parser.parse_args()
    common.begin(args)
    s = replace(Settings.quick() if args.quick else Settings(), seeds=tuple(range(args.seeds)))
    faces, tests = load_faces("train"), test_faces(s)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    arms = Arms(common.arms_file(args, SLUG), replace(s, seeds=()), (1 + len(ARMS)) * len(s.seeds))
    for seed in s.seeds:
        prior = Path(args.work) / f"{SLUG}-prior-{seed}{'-quick' if args.quick else ''}.safetensors"
        arms.run(f"prior, seed {seed}", train_prior, faces, s, seed, prior)
        for arm in ARMS:
            runs[arm].append(arms.run(f"{arm}, seed {seed}", run_arm, faces, tests, s, arm, seed, prior))
    results = Results(runs, tests)
    lines = report(results, s)
    if args.write is not None and not args.quick:
        lines += figures(results, Path("docs/images"))
    common.finish(args, SLUG, lines, ["distilledface"])


if __name__ == "__main__":
    main()
