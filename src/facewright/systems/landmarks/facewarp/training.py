"""How FaceWarp is trained: the landmarker on labelled faces first, then warper and landmarker by turns.

In the warper's turn the landmarks predicted for a stylised face bend a labelled real face, and the two should show the
same edges. In the landmarker's turn it learns from the labelled faces, and from the stylised ones with the landmarks it
predicted for them when the warper's turn ended: so it stays near them, which is the paper's proximal term. The spline
passes through its control points exactly, so the paper's error of warped landmarks is zero and left out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....training.trainer import Batch, Training, Update, signed
from ....training.warm_start import grow
from .network import NEAR, POINTS, FaceWarp, Prediction, edges, warp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

STAGE_WEIGHTS = (0.2, 0.3, 0.5)
INNER = slice(17, POINTS)
FARTHEST_YAW = 60.0  # of the rendered faces that are counted in validation


def distances(points: Tensor, truth: Tensor, length: Tensor) -> Tensor:
    """(N, ..., K) distances of points (N, ..., K, 2) from the truth (N, K, 2), in units of `length` (N,)."""
    shape = (len(truth), *[1] * (points.dim() - 3), *truth.shape[1:])
    errors: Tensor = (points - truth.view(shape)).norm(dim=-1)
    return errors / length.view(-1, *[1] * (errors.dim() - 1))


def stage_loss(found: Prediction, truth: Tensor, weights: Tensor, length: Tensor) -> Tensor:
    """Mean normalised distance over all layers, later stages counting more; a first guess counts as much as the first.

    `truth` (N, 68, 2) and `length` (N,) are shares of the crop; `weights` (N, 68) say how much a point counts. The
    stages' shares are the last of 0.2, 0.3, 0.5.
    """
    errors = distances(found.points, truth, length) * weights[:, None, None]
    shares = errors.new_tensor(STAGE_WEIGHTS[-errors.shape[1] :])
    loss: Tensor = (errors.mean((0, 2, 3)) * shares).sum() / shares.sum()
    if found.start.requires_grad:
        loss = loss + STAGE_WEIGHTS[0] * (distances(found.start, truth, length) * weights).mean()
    return loss


def spread_loss(found: Prediction, truth: Tensor, weights: Tensor) -> Tensor:
    """Negative log-likelihood of the last points under a Laplace distribution in the plane of the predicted scale.

    The points themselves are not moved by it.
    """
    distance = (found.last.detach() - truth).norm(dim=-1)
    surprise: Tensor = distance / found.scale + 2 * (found.scale / NEAR).log()
    return (surprise * weights).mean()


class LandmarkTraining(Training):
    """SLPT's pretraining on labelled faces; batches are those of `facewright.data.landmarks.LandmarkCrops`.

    Networks that say how sure they are learn that as well, with `spread_weight`; those with 98 points learn them where
    the batch has them. `grow_from` names weights of the same network without those to begin with.
    """

    def __init__(
        self,
        model: FaceWarp,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        spread_weight: float = 0.02,
        grow_from: str = "",
    ) -> None:
        if grow_from:
            grow(model, grow_from, "wflw.")
        self.model: FaceWarp = model
        self.lr, self.weight_decay, self.spread_weight = lr, weight_decay, spread_weight

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        loss, logs = self.supervised(batch)
        update("model", loss)
        return logs

    def supervised(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on labelled faces and what to log of it."""
        found = self.model(signed(batch["image"]))
        truth, length, weights = self._truth(batch)
        loss = stage_loss(found, truth, weights, length)
        logs = {"nme": distances(found.last.detach(), truth, length).mean()}
        if self.model.spread is not None:
            loss = loss + self.spread_weight * spread_loss(found, truth, weights)
        if found.wflw is not None and "points98" in batch:
            loss = loss + self._wflw_loss(found.wflw, batch["points98"] / self.model.config.size, length)
        return loss, {"loss": loss.detach(), **logs}

    def _truth(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Points and length as shares of the crop, and the points' weights."""
        side = self.model.config.size
        return batch["points"] / side, batch["length"] / side, batch["weights"]

    def _wflw_loss(self, points: Tensor, truth: Tensor, length: Tensor) -> Tensor:
        known = ~truth.isnan().flatten(1).any(1)
        if not known.any():
            return points.sum() * 0
        return distances(points[known], truth[known], length[known]).mean()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """NME in percent of the face's length: all points and the inner 51 of real faces, all of renders to ±60°."""
        found = self.model(signed(batch["image"]))
        truth, length, _ = self._truth(batch)
        errors = 100 * distances(found.last, truth, length)
        real, turned = batch["rendered"] == 0, (batch["rendered"] == 1) & (batch["yaw"].abs() <= FARTHEST_YAW)
        exact = batch["points98"] / self.model.config.size if found.wflw is not None and "points98" in batch else None
        more = {}
        if exact is not None and found.wflw is not None and turned.any():
            more["nme98"] = float(100 * distances(found.wflw, exact, length)[turned].mean())
        return more | {
            "nme68": float(errors[real].mean()),
            "nme51": float(errors[real][:, INNER].mean()),
            "nme_renders": float(errors[turned].mean()),
        }


class Turns(nn.Module):
    """Whose turn it is, and the landmarker as it was when the warper's last turn ended."""

    def __init__(self, model: FaceWarp, length: int) -> None:
        super().__init__()
        self.length = length
        self.anchor = copy.deepcopy(model).requires_grad_(False)
        self.done: Tensor
        self.register_buffer("done", torch.zeros((), dtype=torch.long))

    def is_warpers(self) -> bool:
        return int(self.done) // self.length % 2 == 0

    def advance(self, model: FaceWarp) -> None:
        """One step was made; at the end of the warper's turn the landmarker is remembered."""
        warping = self.is_warpers()
        self.done += 1
        if warping and not self.is_warpers():
            self.anchor.load_state_dict(model.state_dict())

    @torch.no_grad()
    def pseudo_labels(self, images: Tensor) -> Tensor:
        """(N, 68, 2) what the remembered landmarker says of (N, 3, S, S) crops."""
        points: Tensor = self.anchor.eval()(images).last
        return points


class FaceWarpTraining(LandmarkTraining):
    """The alternation; batches are those of `facewright.data.landmarks.WarpPairs`.

    Turns last `turn` steps (the paper: 5 epochs), the warper's first. Rates are the published ones: 1e-4 for the
    warper's turn, 1e-3 for the landmarker's, each with an optimiser of its own. `joint` makes both steps at once
    instead, and `published_code` cuts the warp's gradient as the published code does.
    """

    def __init__(
        self,
        model: FaceWarp,
        *,
        lr: float = 1e-3,
        warper_lr: float = 1e-4,
        turn: int = 500,
        joint: bool = False,
        published_code: bool = False,
        weight_decay: float = 0.0,
        spread_weight: float = 0.02,
    ) -> None:
        super().__init__(model, lr=lr, weight_decay=weight_decay, spread_weight=spread_weight)
        self.warper_lr, self.joint, self.published_code = warper_lr, joint, published_code
        self.turns = Turns(model, turn)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "turns": self.turns}

    def optimisers(self) -> dict[str, Optimizer]:
        return super().optimisers() | {"warper": torch.optim.Adam(self.model.parameters(), self.warper_lr)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        if self.joint:
            loss, logs = self.supervised(batch)
            bent = self.warp_loss(batch)
            update("model", loss + bent)
            return logs | {"warp": bent.detach()}
        if self.turns.is_warpers():
            bent = self.warp_loss(batch)
            if bent.requires_grad:  # with the gradient cut, only the batch norms' statistics move
                update("warper", bent)
            logs = {"warp": bent.detach()}
        else:
            loss, logs = self.supervised(batch)
            pseudo = self.pseudo_loss(batch)
            update("model", loss + pseudo)
            logs["pseudo"] = pseudo.detach()
        self.turns.advance(self.model)
        return logs

    def warp_loss(self, batch: Batch) -> Tensor:
        """Mean squared difference of the edges of bent real faces and of the stylised faces they were bent for."""
        side = self.model.config.size
        styled = signed(batch["styled"])
        wanted = self.model(styled).last * side
        real = (signed(batch["image"]) + 1) / 2
        bent = warp(real, batch["points"], wanted.float(), detached=self.published_code)
        return F.mse_loss(edges(bent), edges((styled + 1) / 2))

    def pseudo_loss(self, batch: Batch) -> Tensor:
        """The supervised loss of stylised faces with the remembered landmarks."""
        styled = signed(batch["styled"])
        labels = self.turns.pseudo_labels(styled)
        length = (labels[:, 36] - labels[:, 45]).norm(dim=-1).clamp_min(0.5 * batch["length"] / self.model.config.size)
        return stage_loss(self.model(styled), labels, torch.ones_like(labels[..., 0]), length)

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """As for labelled faces, and of the stylised ones."""
        scores = dict(super().validate(batch))
        side = self.model.config.size
        found = self.model(signed(batch["styled"])).last
        truth = batch["styled_points"] / side
        length = (truth[:, 36] - truth[:, 45]).norm(dim=-1)
        return scores | {"nme_styled": float(100 * distances(found, truth, length).mean())}
