"""The six papers and what each is compared with: the same network and data without the paper's idea."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from facewright.data.detection import five_points
from facewright.data.faces import open_faces
from facewright.data.inner_faces import (
    SPEC,
    InnerFaceBatches,
    category_captions,
    face_only,
    pack_sequences,
)
from facewright.data.liveness import PackedCrops
from facewright.face import Face
from facewright.systems.base import System, system_class
from facewright.systems.liveness.clipc8.categories import DARK
from facewright.systems.liveness.clipc8.categories import LIVE as CLIP_LIVE
from facewright.systems.liveness.dle.network import DLE
from facewright.systems.liveness.dle.network import LIVE as DLE_LIVE
from facewright.systems.liveness.dlif.network import DLIF, SCALE
from facewright.systems.liveness.dlif.network import LIVE as DLIF_LIVE
from facewright.systems.liveness.dlif.training import am_softmax
from facewright.systems.liveness.hypoc.network import HypOC, HypOCConfig
from facewright.systems.liveness.hypoc.training import PseudoNegatives
from facewright.systems.liveness.livecheck.network import LiveCheck, LiveCheckConfig, live_log_odds
from facewright.systems.liveness.livecheck.training import LiveCheckTraining
from facewright.training.trainer import Batch, Recipe, Training, Update, build_config, build_entry

from .. import common

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from facewright.systems.liveness.clipc8.network import CLIPC8
    from facewright.systems.liveness.iadg.network import IADG, DynamicKernels
    from facewright.systems.liveness.ifas.network import IFAS

    Floats = NDArray[np.float64]
    Images = NDArray[np.uint8]

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
_BATCH = 128


# --- training --------------------------------------------------------------------------------------------------------


def fit(training: Training, data: Dataset[Batch], recipe: Recipe, *, only_judge: bool = False) -> None:
    """The steps of a recipe, as `facewright train` takes them, without averages and checkpoints.

    only_judge: I-FAS's answers end behind yes or no.
    """
    torch.manual_seed(recipe.seed)
    optimisers = training.optimisers()
    base = {name: [group["lr"] for group in one.param_groups] for name, one in optimisers.items()}
    loader = DataLoader(data, batch_size=recipe.batch_size, sampler=range(recipe.steps * recipe.batch_size))
    factor = 1.0

    def update(name: str, loss: Tensor) -> None:
        one = optimisers[name]
        one.zero_grad(set_to_none=True)
        with torch.autocast("cpu", enabled=False):
            loss.backward()
        weights = [p for group in one.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
        for group, rate in zip(one.param_groups, base[name]):
            group["lr"] = rate * factor
        one.step()

    for number, batch in enumerate(loader):
        factor = _rate(number, recipe)
        for module in training.modules().values():
            module.train()
        if only_judge:
            batch["length"] = torch.ones_like(batch["length"])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            training.step(batch, update, number / recipe.steps)
    for module in training.modules().values():
        module.eval()


def _rate(number: int, recipe: Recipe) -> float:
    if number < recipe.warmup:
        return (number + 1) / recipe.warmup
    cosine = 0.5 * (1 + np.cos(np.pi * (number - recipe.warmup) / max(1, recipe.steps - recipe.warmup)))
    return float(recipe.min_lr_ratio + (1 - recipe.min_lr_ratio) * cosine)


class Plain(Training):
    """Cross entropy of the two logits (attack, live) that `network` makes of a batch's pictures."""

    def __init__(
        self,
        model: System,
        network: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        self.model, self.network, self.loss = model, network, loss
        self.lr, self.weight_decay = lr, weight_decay

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "network": self.network}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.network.parameters(), self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        loss = self.loss(self.network(self.model.normalise(batch["image"].numpy())), batch["live"].long())
        update("model", loss)
        return {"loss": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {}


class Euclidean(Training):
    """Hyp-OC's encoder, linear layers and pseudo-negatives with a linear classifier instead of the ball."""

    def __init__(self, model: HypOC, *, lr: float, weight_decay: float, epoch: int) -> None:
        self.model: HypOC = model
        self.last = nn.Linear(model.config.hidden[-1], 2)
        self.negatives, self.epoch, self.steps = PseudoNegatives(), epoch, 0
        self.lr, self.weight_decay = lr, weight_decay
        for block in model.encoder.blocks[:-1]:
            block.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "last": self.last}

    def optimisers(self) -> dict[str, Optimizer]:
        head = self.model.head.layers.parameters()
        encoder = [p for p in self.model.encoder.parameters() if p.requires_grad]
        weights = [*encoder, *head, *self.last.parameters()]
        return {"model": torch.optim.Adam(weights, self.lr, weight_decay=self.weight_decay)}

    def logits(self, features: Tensor) -> Tensor:
        """(N, F) to logits (N, 2): real, attack."""
        for layer in self.model.head.layers:
            features = F.relu(layer(features))
        out: Tensor = self.last(features)
        return out

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        if self.steps % self.epoch == 0:
            self.negatives.reset()
        self.steps += 1
        features = self.model.encoder(self.model.normalise(batch["image"].numpy()))
        logits = self.logits(torch.cat([features, self.negatives.draw(features)]))
        loss = F.cross_entropy(logits, torch.arange(2).repeat_interleave(len(features)))
        update("model", loss)
        return {"loss": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {}


def scores_of(crops: Images, attack: Callable[[Tensor], Tensor], system: System) -> Floats:
    """What `attack` makes of normalised crops, (N,): larger for attacks."""
    with torch.inference_mode():
        starts = range(0, len(crops), _BATCH)
        return np.concatenate([attack(system.normalise(crops[i : i + _BATCH])).double().numpy() for i in starts])


# --- arms ------------------------------------------------------------------------------------------------------------


class Bench:
    """One protocol's file, a seed, and the folder of pretrained encoders; every method is an arm: it trains a network
    on the training side and gives scores of attack (M,) of the crops of the file that are not on it."""

    def __init__(self, file: Path, seed: int, encoders: Path, steps: float = 1.0) -> None:
        self.file, self.seed, self.encoders, self.share = file, seed, encoders, steps
        self.crops = PackedCrops.load(file)
        self.others = self.crops.side != "train"
        self.judged = self.crops.images[self.others]

    def recipe(self, name: str) -> Recipe:
        found = Recipe.load(RECIPES / f"{name}.yaml")
        return replace(found, seed=self.seed, steps=max(1, round(self.share * found.steps)))

    def data(self, recipe: Recipe, **options: Any) -> InnerFaceBatches:
        few = len(set(self.crops.person[self.crops.side == "train"].tolist()))
        if few < 8 and recipe.data["options"].get("live_only"):  # as many people as there are
            options = {"pictures": recipe.batch_size // 4} | options
        made = build_entry(recipe.data, split="train", seed=self.seed, **({"file": str(self.file)} | options))
        return cast("InnerFaceBatches", made)

    def network(self, recipe: Recipe, **changes: Any) -> Any:
        torch.manual_seed(self.seed)
        cls = system_class(recipe.system)
        if recipe.start_from:
            return cls.from_pretrained(self.encoders / recipe.system).train()
        return common.channels_last(cls(replace(build_config(cls, recipe.config), **changes)))

    # DLIF: people as domains, coarse domains, none

    def dlif(self) -> Floats:
        """People are the domains."""
        recipe = self.recipe("dlif-compact")
        data = self.data(recipe)
        model = self.network(recipe, identities=len(data.rows))
        fit(build_entry(recipe.training, model), data, recipe)
        return self._dlif(model)

    def dlif_coarse(self) -> Floats:
        """The same losses, with the two kinds of lighting as domains."""
        recipe = self.recipe("dlif-compact")
        data = self.data(recipe, group="lighting")
        model = self.network(recipe, identities=len(data.rows))
        fit(build_entry(recipe.training, model, collections=len(data.rows)), data, recipe)
        return self._dlif(model)

    def dlif_plain(self) -> Floats:
        """The liveness encoder and its margins alone."""
        recipe = self.recipe("dlif-compact")
        model = self.network(recipe, identities=0)
        network = nn.Sequential(model.liveness, model.classify)
        options = recipe.training["options"]
        training = Plain(model, network, lr=options["lr"], weight_decay=options["weight_decay"], loss=am_softmax)
        fit(training, self.data(recipe), recipe)
        return self._dlif(model)

    def _dlif(self, model: DLIF) -> Floats:
        def attack(crops: Tensor) -> Tensor:
            logits = SCALE * cast("Tensor", model(crops))
            return logits[:, 1 - DLIF_LIVE] - logits[:, DLIF_LIVE]

        return scores_of(self.judged, attack, model)

    # IADG: all, without styles and whitening, with fixed kernels as well

    def iadg(self) -> Floats:
        """Kernels of every picture, mixed styles, whitening."""
        return self._iadg({})

    def iadg_kernels(self) -> Floats:
        """Kernels of every picture alone."""
        return self._iadg({"epoch": 0})

    def iadg_plain(self) -> Floats:
        """Fixed kernels, nothing of instances; depth stays."""
        return self._iadg({"epoch": 0}, fixed=True)

    def _iadg(self, options: dict[str, Any], *, fixed: bool = False) -> Floats:
        recipe = self.recipe("iadg-compact")
        model: IADG = self.network(recipe)
        if fixed:
            with_fixed_kernels(model)
        fit(build_entry(recipe.training, model, **options), self.data(recipe), recipe)
        return scores_of(self.judged, lambda crops: -model.score(crops), model)

    # Hyp-OC: the ball, a linear classifier, distances of the encoder's features

    def hypoc(self) -> Floats:
        """The ball, and pairs drawn together."""
        recipe = self.recipe("hypoc-compact")
        model: HypOC = self.network(recipe)
        fit(build_entry(recipe.training, model), self.data(recipe), recipe)

        def attack(crops: Tensor) -> Tensor:
            logits = model(crops)
            return logits[:, 1] - logits[:, 0]

        return scores_of(self.judged, attack, model)

    def hypoc_plain(self) -> Floats:
        """A linear classifier on the same layers, against the same noise."""
        recipe = self.recipe("hypoc-compact")
        model: HypOC = self.network(recipe)
        options = recipe.training["options"]
        training = Euclidean(model, lr=options["lr"], weight_decay=options["weight_decay"], epoch=options["epoch"])
        fit(training, self.data(recipe), recipe)

        def attack(crops: Tensor) -> Tensor:
            logits = training.logits(model.encoder(crops))
            return logits[:, 1] - logits[:, 0]

        return scores_of(self.judged, attack, model)

    def hypoc_distance(self) -> Floats:
        """No training: Mahalanobis distance of the encoder's features from those of live training people."""
        model: HypOC = self.network(self.recipe("hypoc-compact")).eval()
        features = np.stack([f.numpy() for f in features_of(self.crops.images, model.encoder, model)])
        taught = features[(self.crops.side == "train") & self.crops.live]
        return distances(features[self.others].astype(np.float64), taught.astype(np.float64))

    # CLIPC8: sentences, a plain head

    def clipc8(self) -> Floats:
        """Pictures and sentences attract each other."""
        recipe = self.recipe("clipc8-compact")
        model: CLIPC8 = self.network(recipe)
        fit(build_entry(recipe.training, model), self.data(recipe), recipe)
        model.describe_categories(category_captions())

        def attack(crops: Tensor) -> Tensor:
            logits = model(crops)
            others = [i for i in range(logits.shape[1]) if i not in (CLIP_LIVE, DARK)]
            return logits[:, others].logsumexp(1) - logits[:, CLIP_LIVE]

        return scores_of(self.judged, attack, model)

    def clipc8_plain(self) -> Floats:
        """The image tower and a linear layer."""
        recipe = self.recipe("clipc8-compact")
        model: CLIPC8 = self.network(recipe)
        network = nn.Sequential(model.image, nn.Linear(model.config.dim, 2))
        return self._plain(model, network, recipe, text="")

    # I-FAS: yes or no with a caption, yes or no, a plain head

    def ifas(self) -> Floats:
        """Yes or no, and a caption."""
        return self._ifas(only_judge=False)

    def ifas_judge(self) -> Floats:
        """Yes or no alone, by the same decoder."""
        return self._ifas(only_judge=True)

    def _ifas(self, *, only_judge: bool) -> Floats:
        recipe = self.recipe("ifas-compact")
        model: IFAS = self.network(recipe)
        fit(build_entry(recipe.training, model), self.data(recipe), recipe, only_judge=only_judge)

        def attack(crops: Tensor) -> Tensor:
            logits = model(crops)
            return logits[:, 1] - logits[:, 0]

        return scores_of(self.judged, attack, model)

    def ifas_plain(self) -> Floats:
        """The vision transformer and a linear layer on its last class token."""
        recipe = self.recipe("ifas-compact")
        model: IFAS = self.network(recipe)
        return self._plain(model, LastToken(model), recipe, text="")

    # DLE: the ensemble and its parts

    def dle(self) -> dict[str, Floats]:
        """The last network, each learner, the mean of the learners, and a linear layer on the frames' mean."""
        recipe, last = self.recipe("dle-compact"), self.recipe("dle-compact-meta")
        model: DLE = self.network(recipe)
        features = np.stack([f.numpy() for f in features_of(self.crops.images, model.features, model)])
        file = self.file.with_name(f"{self.file.stem}-sequences.npz")
        pack_sequences(file, self.crops, features)
        for stage in (recipe, last):
            data = build_entry(stage.data, split="train", seed=self.seed, file=str(file))
            fit(build_entry(stage.training, model), data, stage)
        with np.load(file, allow_pickle=False) as stored:
            sequences, videos = torch.from_numpy(stored["features"]).float(), stored["video"]
        with torch.inference_mode():
            told = {name: learner(sequences) for name, learner in zip(("bilstm", "gru", "lstm"), model.learners)}
            told["mean"] = torch.stack([logits.softmax(-1) for logits in told.values()]).mean(0).log()
            told["ensemble"] = model.meta(model.votes(sequences))
        found = {
            name: self._videos((x[..., 1 - DLE_LIVE] - x[..., DLE_LIVE]).mean(1), videos) for name, x in told.items()
        }
        return found | {"still": self._still(sequences, videos, recipe)}

    def _videos(self, scores: Tensor, videos: NDArray[np.str_]) -> Floats:
        """A score of every judged crop from that of its video; NaN where a video has none."""
        table = dict(zip(videos.tolist(), scores.tolist()))
        return np.array([table.get(name, np.nan) for name in self.crops.video[self.others].tolist()])

    def _still(self, sequences: Tensor, videos: NDArray[np.str_], recipe: Recipe) -> Floats:
        """Logistic regression on the mean of a video's frames, whose order it cannot know, of the learners' people."""
        names, first = np.unique(self.crops.video, return_index=True)
        row = dict(zip(names.tolist(), first.tolist()))
        rows = np.array([row[name] for name in videos.tolist()])
        train = self.crops.side[rows] == "train"
        people = sorted(set(self.crops.person[rows][train].tolist()))[:-4]
        taught = torch.from_numpy(train & np.isin(self.crops.person[rows], people))
        x, live = sequences.mean(1), torch.from_numpy(self.crops.live[rows])
        x = (x - x[taught].mean(0)) / (x[taught].std(0) + 1e-6)
        weight = torch.where(live, 1 / live[taught].float().mean(), 1 / (~live[taught]).float().mean())
        layer = nn.Linear(x.shape[1], 1)
        optimiser = torch.optim.Adam(layer.parameters(), 1e-2, weight_decay=1e-3)
        for _ in range(recipe.steps):
            logits = layer(x[taught])[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, (~live[taught]).float(), weight[taught])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return self._videos(layer(x)[:, 0].detach(), videos)

    # baselines

    def cnn(self) -> Floats:
        """A thin ResNet-10, no idea but cross entropy."""
        recipe = self.recipe("dlif-compact")
        torch.manual_seed(self.seed)
        holder = LiveCheck(replace(LiveCheckConfig.compact(), size=SPEC.size))  # normalises to [−1, 1]
        trunk = common.SmallResNet(64, 16)
        return self._plain(holder, nn.Sequential(trunk, nn.Linear(64, 2)), recipe)

    def livecheck(self) -> Floats:
        """LiveCheck's network and losses, trained here like all others."""
        recipe = self.recipe("dlif-compact")
        torch.manual_seed(self.seed)
        model = LiveCheck(replace(LiveCheckConfig.compact(), size=SPEC.size))
        fit(LiveCheckTraining(model), self.data(recipe), recipe)
        return scores_of(self.judged, lambda crops: -live_log_odds(model(crops).mean((2, 3))), model)

    def _plain(self, model: System, network: nn.Module, recipe: Recipe, **options: Any) -> Floats:
        given = recipe.training["options"]
        fit(
            Plain(model, network, lr=given["lr"], weight_decay=given["weight_decay"]),
            self.data(recipe, **options),
            recipe,
        )

        def attack(crops: Tensor) -> Tensor:
            logits = network(crops)
            return logits[:, 0] - logits[:, 1]

        return scores_of(self.judged, attack, model)


class LastToken(nn.Module):
    """I-FAS's vision transformer and two logits of its last class token."""

    def __init__(self, model: IFAS) -> None:
        super().__init__()
        self.image, self.look = model.image, model.look
        self.last = nn.Linear(model.config.width, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.last(self.look(pictures)[0][:, -1])
        return out


def with_fixed_kernels(model: IADG) -> None:
    """Put plain 3×3 convolutions where kernels are made of the picture."""
    for stage in model.features.stages:
        layer = cast("nn.Sequential", cast("nn.Sequential", stage)[1])
        dynamic = cast("DynamicKernels", layer[0])
        layer[0] = nn.Conv2d(2 * dynamic.static.in_channels, dynamic.fuse.out_channels, 3, 1, 1)


def features_of(crops: Images, encoder: nn.Module, system: System) -> Tensor:
    """Features (N, F) of crops."""
    with torch.inference_mode():
        return torch.cat([encoder(system.normalise(crops[i : i + _BATCH])) for i in range(0, len(crops), _BATCH)])


def distances(rows: Floats, taught: Floats, ridge: float = 0.1) -> Floats:
    """Mahalanobis distances (N,) of rows from the taught ones; their covariance is shrunk towards its mean variance."""
    mean, covariance = taught.mean(0), np.cov(taught, rowvar=False)
    size = len(covariance)
    shrunk = (1 - ridge) * covariance + ridge * np.trace(covariance) / size * np.eye(size) + 1e-9 * np.eye(size)
    away = rows - mean
    return np.asarray(np.sqrt(np.einsum("nf,nf->n", away, np.linalg.solve(shrunk, away.T).T)))


# --- encoders that know faces, as the papers' know ImageNet or VGG-Face -----------------------------------------------


def pretrain(slug: str, folder: Path, *, people: int = 60, least: int = 8, most: int = 30, steps: int = 300) -> float:
    """Teach the encoder of Hyp-OC or DLE to recognise people of LFW by their inner faces; its last batches' loss."""
    images, labels = lfw_inner_faces(people, least, most)
    torch.manual_seed(0)
    model: Any = HypOC(HypOCConfig.compact()) if slug == "hypoc" else DLE(build_config(DLE, {"preset": "compact"}))
    encoder = model.encoder if slug == "hypoc" else model.features
    encoder.requires_grad_(True)
    if slug == "hypoc":
        keep_size(encoder)
    width = model.config.feature if slug == "hypoc" else encoder.out_features
    classify = nn.Linear(width, int(labels.max()) + 1)
    epochs, rng = common.Epochs(len(images), 48, 0), np.random.default_rng(0)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *classify.parameters()], 2e-3, weight_decay=1e-3)
    losses: list[float] = []
    encoder.train()
    for number in range(steps):
        rows = epochs.batch(number)
        logits = classify(encoder(model.normalise(common.augmented(images[rows], rng))))
        loss = F.cross_entropy(logits, torch.from_numpy(labels[rows]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    encoder.eval()
    model.save_pretrained(folder / slug)
    return float(np.mean(losses[-20:]))


def keep_size(encoder: nn.Module, grey_levels: float = 64.0) -> None:
    """He's initialisation, for a VGG without norms, with the first layer scaled for pictures in grey levels."""
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    for layer in convolutions:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(cast("Tensor", layer.bias))
    convolutions[0].weight.data /= grey_levels


def lfw_inner_faces(people: int, least: int, most: int) -> tuple[Images, NDArray[np.int64]]:
    """Inner faces of training people of LFW with `least` pictures or more, `most` of each, and the people's numbers."""
    faces = open_faces("lfw", "train")
    names = faces.labels["subject"][faces.rows]
    subjects, counts = np.unique(names, return_counts=True)
    crops, labels = [], []
    for number, subject in enumerate(subjects[counts >= least][:people]):
        for row in faces.rows[names == subject][:most]:
            points = five_points(faces.labels["landmarks68"][row].astype(np.float64)).astype(np.float32)
            crops.append(SPEC.cut(faces.read(int(row)), Face(np.zeros(4, np.float32), 1.0, points)).image)
            labels.append(number)
    return face_only(np.stack(crops)), np.array(labels, np.int64)
