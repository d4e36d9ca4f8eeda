"""How SUR-LID learns a stream of tasks: what it keeps of each, its losses, and how its heads are aligned.

The formulas are the paper's; where the released code differs, an option gives the code's. Its heads are never trained
(they are not among its parameters); here they are, unless `frozen_heads` asks for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update, signed
from .network import SurLid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

Distance = Literal["l2", "dot"]
Refill = Literal["mean", "neighbours", "centre"]
FAKE, REAL, PER_GROUP = 1, 0, 3
TEMPERATURE = 0.1
ALIGNMENT = (0.99, 0.999, 0.9999, 0.99995)
"""How much of itself each head keeps in one alignment, newest first: what the released code has."""


# --- sparse uniform replay --------------------------------------------------------------------------------------------


def grid_shuffled(image: Tensor, order: Sequence[int]) -> Tensor:
    """(N, C, H, W) with its four quarters, row by row, put in another order."""
    top, bottom = image.chunk(2, 2)
    tiles = [*top.chunk(2, 3), *bottom.chunk(2, 3)]
    moved = [tiles[i] for i in order]
    return torch.cat([torch.cat(moved[:2], 3), torch.cat(moved[2:], 3)], 2)


def stability(features: Tensor, shuffled: Tensor) -> Tensor:
    """(N,) cosine between the features of pictures and of their grid-shuffled copies."""
    return F.cosine_similarity(features, shuffled, dim=1)


def sparse_uniform(
    features: NDArray[np.floating], stable: NDArray[np.floating], count: int, *, distance: Distance = "l2"
) -> NDArray[np.int64]:
    """Rows of one class to keep, `count` of them, even: spread over all distances from the class's mean.

    The samples are sorted by distance and cut into count / 2 equal parts. Of each part the most stable sample is kept,
    and the one that looks least like it (by cosine). `distance="dot"` sorts by the product with the mean, as the code
    does, which favours long vectors.
    """
    if count % 2 or not 2 <= count <= len(features):
        raise UsageError(f"of {len(features)} samples an even number can be kept, not {count}")
    centre = features.mean(0)
    away = -(features @ centre) if distance == "dot" else np.linalg.norm(features - centre, axis=1)
    order = np.argsort(away, kind="stable")
    part = len(features) // (count // 2)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    kept: list[int] = []
    for start in range(0, part * (count // 2), part):
        some = order[start : start + part]
        first = int(some[np.argmax(stable[some])])
        others = some[some != first]
        kept += [first, int(others[np.argmin(unit[others] @ unit[first])])] if len(others) else [first, first]
    return np.array(kept, np.int64)


def nearest_centre(features: NDArray[np.floating], count: int, *, distance: Distance = "l2") -> NDArray[np.int64]:
    """The rows nearest to the class's mean, what replay of other methods keeps."""
    centre = features.mean(0)
    away = -(features @ centre) if distance == "dot" else np.linalg.norm(features - centre, axis=1)
    return np.argsort(away, kind="stable")[:count].astype(np.int64)


def refilled(group: Tensor, centre: Tensor, how: Refill, generator: torch.Generator | None = None) -> Tensor:
    """Features (3, D) of one class of one task moved to fill its distribution, around the class's centre (D,).

    `mean`: a random row becomes the mean of all. `neighbours`: each becomes the mean of itself and the next. `centre`:
    each is pulled to the centre, by up to half of the way.
    """
    if how == "neighbours":
        return (group + group.roll(-1, 0)) / 2
    if how == "centre":
        keep = torch.rand(len(group), 1, generator=generator) / 2 + 0.5
        return keep * group + (1 - keep) * centre
    at = int(torch.randint(len(group), (), generator=generator))
    row = torch.arange(len(group))[:, None] == at
    return torch.where(row, group.mean(0, keepdim=True), group)


# --- losses -----------------------------------------------------------------------------------------------------------


def isolation_loss(features: Tensor, classes: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020) times the temperature, on features of length 1 (N, D).

    Whatever has the same number in `classes` (N,) is drawn together and pushed from the rest. Samples without a partner
    do not count.
    """
    near = features @ features.T / temperature
    self_pair = torch.eye(len(near), dtype=torch.bool, device=near.device)
    partner = (classes[:, None] == classes[None]) & ~self_pair
    log_share = near - near.masked_fill(self_pair, -torch.inf).logsumexp(1, keepdim=True)
    counts = partner.sum(1)
    each = -(log_share * partner).sum(1) / counts.clamp_min(1)
    return temperature * each[counts > 0].mean()


def isolated_classes(tasks: Tensor, labels: Tensor, *, shared_reals: bool = False) -> Tensor:
    """A number for every (task, label); with `shared_reals` all real pictures have one (protocol 2)."""
    classes = 10 * tasks + labels
    return torch.where(labels == REAL, torch.zeros_like(classes), classes) if shared_reals else classes


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features (N, D) scaled to length 1."""
    return F.mse_loss(F.normalize(student, dim=1), F.normalize(teacher, dim=1))


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 20.0, share: float = 0.3
) -> Tensor:
    """Cross-entropy, and the divergence of the teacher's softened answers from the student's, on replayed pictures.

    2·share·T²·KL(teacher ‖ student) + (1 − share)·CE on logits (N, 2). In the released code the first term is none,
    because it hands logarithms to a function that takes probabilities.
    """
    student, teacher = student.float(), teacher.float()  # T² makes the rounding of half precision larger than the term
    soft = F.log_softmax(student / temperature, 1)
    target = F.log_softmax(teacher / temperature, 1)
    divergence = F.kl_div(soft, target, reduction="batchmean", log_target=True)
    return 2 * share * temperature**2 * divergence + (1 - share) * F.cross_entropy(student, labels)


@torch.no_grad()
def align_heads(heads: Sequence[nn.Linear], keep: Sequence[float] = ALIGNMENT) -> None:
    """Incremental decision alignment: turn every head a little towards the head it is least similar to.

    Directions are those of each row of a head's weights; lengths stay. `keep` says, newest head first, how much of its
    own direction a head keeps. A single head stays as it is.
    """
    if len(heads) < 2:
        return
    units = [F.normalize(head.weight, dim=1) for head in heads]
    for number, head in enumerate(heads):
        others = [i for i in range(len(heads)) if i != number]
        farthest = min(others, key=lambda i: float((units[number] * units[i]).sum()))
        own = keep[min(len(heads) - 1 - number, len(keep) - 1)]
        turned = F.normalize(own * units[number] + (1 - own) * units[farthest], dim=1)
        head.weight.copy_(head.weight.norm(dim=1, keepdim=True) * turned)


def grown(model: SurLid, learnt: int) -> SurLid:
    """A copy in which the first `learnt` heads vote, to start the next task with; UsageError if there are fewer."""
    copy = SurLid(replace(model.config, learnt=learnt))
    copy.load_state_dict(model.state_dict())
    return copy


# --- training of one task ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SurLidWeights:
    """What each loss weighs: cross-entropy, isolation, distance of features, distillation of answers.

    The defaults are the paper's (isolation 1, distance 1, cross-entropy 0.1, no distillation of answers).
    """

    detection: float = 0.1
    isolation: float = 1.0
    features: float = 1.0
    answers: float = 0.0

    @classmethod
    def released(cls) -> SurLidWeights:
        """Those of the released code."""
        return cls(1.0, 4.0, 10.0, 1.0)


class SurLidTraining(Training):
    """One task of the stream, the newest.

    Batches have `image` (N, S, S, 3) uint8 RGB, `label` (N,) with 1 for fake, and `task` (N,). Replayed pictures come
    first, for every earlier task three fakes and three reals in this order; `teacher`, the network before this task or
    the folder of its weights, is needed for them. `refill` names how their features are moved for the isolation loss,
    "" for not at all. `weights` may be given by the names of the losses, as in a recipe.
    """

    def __init__(
        self,
        model: SurLid,
        *,
        lr: float = 2e-4,
        weight_decay: float = 5e-4,
        weights: SurLidWeights | Mapping[str, float] | None = None,
        teacher: SurLid | str | None = None,
        shared_reals: bool = False,
        refill: Refill | Literal[""] = "neighbours",
        align: bool = True,
        frozen_heads: bool = False,
    ) -> None:
        self.model: SurLid = model
        known = SurLid.from_pretrained(teacher) if isinstance(teacher, str) else teacher
        self.teacher = None if known is None else known.eval().requires_grad_(False)
        self.lr, self.weight_decay = lr, weight_decay
        self.weights = SurLidWeights(**weights) if isinstance(weights, Mapping) else weights or SurLidWeights()
        self.shared_reals, self.refill, self.align, self.frozen_heads = shared_reals, refill, align, frozen_heads

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = self.model.backbone if self.frozen_heads else self.model
        return {"model": torch.optim.Adam(trained.parameters(), self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        terms = self._losses(batch)
        weights = self.weights
        update(
            "model",
            weights.detection * terms["detection"]
            + weights.isolation * terms["isolation"]
            + weights.features * terms["features"]
            + weights.answers * terms["answers"],
        )
        if self.align:
            align_heads(self._learnt_heads())
        return {name: value.detach() for name, value in terms.items()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Cross-entropy and accuracy of the vote."""
        logits, label = self.model(signed(batch["image"])).float(), batch["label"].long()
        right = (logits.argmax(1) == label).float().mean()
        return {"loss": float(F.cross_entropy(logits, label)), "accuracy": float(right)}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        image, label, task = signed(batch["image"]), batch["label"].long(), batch["task"].long()
        features = self.model.features(image).float()
        logits = self.model.by_task(features, task)
        old = int((task < task.max()).sum())
        zero = features.sum() * 0
        terms = {"detection": F.cross_entropy(logits, label), "features": zero, "answers": zero}
        unit = F.normalize(features, dim=1)
        if self.refill and old:
            unit = F.normalize(torch.cat([self._refilled(unit[:old]), unit[old:]]), dim=1)
        classes = isolated_classes(task, label, shared_reals=self.shared_reals)
        terms["isolation"] = isolation_loss(unit, classes)
        if old and self.teacher is not None:
            with torch.no_grad():
                known = self.teacher.features(image[:old]).float()
            terms["features"] = feature_distance(features[:old], known)
            terms["answers"] = distillation_loss(logits[:old], self.teacher.by_task(known, task[:old]), label[:old])
        return terms

    def _refilled(self, replayed: Tensor) -> Tensor:
        assert self.refill
        groups = torch.split(replayed, PER_GROUP)
        return torch.cat([refilled(group, group.detach().mean(0), self.refill) for group in groups])

    def _learnt_heads(self) -> list[nn.Linear]:
        return list(self.model.heads[: self.model.config.learnt])  # type: ignore[arg-type]
