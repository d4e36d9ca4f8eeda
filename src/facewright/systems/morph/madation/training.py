"""How MADation is trained: binary cross-entropy on both logits, one optimiser each for low-rank matrices and head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from ....training.trainer import Batch, Training, Update, signed
from ...base import system_class
from .network import BONA_FIDE, MORPH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import Madation

Arm = Literal["low-rank", "head", "scratch", "full"]
BETAS, WEIGHT_DECAY = (0.9, 0.999), 0.05


def morph_loss(logits: Tensor, morph: Tensor) -> Tensor:
    """Binary cross-entropy of each of two logits (N, 2) with its share of the one-hot label, mean over both.

    `morph` (N,) is 1 for morphs. The released code does this; the paper writes a softmax, which gives other gradients.
    """
    target = torch.zeros_like(logits)
    target[:, MORPH], target[:, BONA_FIDE] = morph, 1 - morph
    return F.binary_cross_entropy_with_logits(logits, target)


class MadationTraining(Training):
    """Batches have `image` (N, S, S, 3) uint8 RGB, as the network's crop shows it, and `morph` (N,), 1 for morphs.

    `arm`: the published way (`low-rank`), or what it is compared with: the head alone, everything from scratch, or
    everything from the pre-trained tower (`full`). `start_from`: name of the system whose transformer a `face_vit`
    tower begins with. Without it the tower is as it was given.
    """

    def __init__(
        self,
        model: Madation,
        *,
        lr: float = 1e-5,
        head_lr: float = 1e-4,
        arm: Arm = "low-rank",
        start_from: str = "",
    ) -> None:
        self.model: Madation = model
        self.lr, self.head_lr = lr, head_lr
        if start_from and arm != "scratch":
            adopt_transformer(model, start_from)
        for name, parameter in model.tower.named_parameters():
            low_rank = name.rpartition(".")[2] in ("q_a", "q_b", "v_a", "v_b")
            parameter.requires_grad_(low_rank if arm == "low-rank" else arm in ("scratch", "full") and not low_rank)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        tower = [p for p in self.model.tower.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": list(self.model.head.parameters()), "lr": self.head_lr}]
        if tower:
            groups.append({"params": tower, "lr": self.lr})
        return {"model": torch.optim.AdamW(groups, betas=BETAS, weight_decay=WEIGHT_DECAY)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        logits = self.model(self._fed(batch)).float()
        loss = morph_loss(logits, batch["morph"].float())
        update("model", loss)
        return {"loss": loss.detach(), "accuracy": ((logits.argmax(1) == MORPH) == (batch["morph"] > 0)).float().mean()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Loss and accuracy."""
        logits = self.model(self._fed(batch)).float()
        right = ((logits.argmax(1) == MORPH) == (batch["morph"] > 0)).float().mean()
        return {"loss": float(morph_loss(logits, batch["morph"].float())), "accuracy": float(right)}

    def _fed(self, batch: Batch) -> Tensor:
        image = signed(batch["image"])
        return image.flip(1) if self.model.preprocess.colour == "BGR" else image


def adopt_transformer(model: Madation, slug: str) -> None:
    """Give a `face_vit` tower the weights of a system's transformer; positions of tokens it does not have are left out.

    RuntimeError for one of another shape.
    """
    known: Any = system_class(slug).from_pretrained()
    state = {key: value for key, value in known.vit.state_dict().items() if not key.startswith("head.")}
    state["positions"] = state["positions"][:, -model.tower.positions.shape[1] :]  # type: ignore[index]
    renamed = {key.replace(".qkv.weight", ".qkv.base.weight"): value for key, value in state.items()}
    own = model.tower.state_dict()
    model.tower.load_state_dict(own | renamed)
