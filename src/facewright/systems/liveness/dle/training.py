"""How DLE is trained: three learners on cached features, then the last network on what they say of other people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from torch.optim import Optimizer

    from .network import DLE

    Stage = Literal["learners", "meta"]

NAMES = ("bilstm", "gru", "lstm")


def frame_loss(logits: Tensor, live: Tensor, lengths: Tensor) -> Tensor:
    """Cross entropy of every frame: logits (N, T, 2), videos' labels (N,) of 0 and 1 and numbers of frames (N,).

    Frames beyond a video's length are padding and do not count.
    """
    steps = torch.arange(logits.shape[1], device=logits.device)
    there = steps[None] < lengths[:, None]
    labels = live.long()[:, None].expand(-1, logits.shape[1])
    return F.cross_entropy(logits[there].float(), labels[there])


class DLETraining(Training):
    """Batches hold `features` (N, T, F) of kept frames, padded at the end, `length` (N,) and `live` (N,) of 0 and 1.

    stage: "learners" trains the three networks, each by an optimiser of its own; "meta" the last one, which should see
    videos that the learners did not: the published scripts take the development set, which also stops the learners
    and sets the threshold.

    A bidirectional network also reads the padding: batch videos of one length where that matters.
    """

    def __init__(self, model: DLE, *, lr: float = 1e-4, stage: Stage = "learners") -> None:
        self.model: DLE = model
        if stage not in ("learners", "meta"):
            raise UsageError(f"stage {stage!r} of DLE's training: choose learners or meta")
        self.lr, self.stage = lr, stage

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        if self.stage == "meta":
            return {"model": torch.optim.Adam(_trained(self.model.meta), self.lr)}
        return {name: torch.optim.Adam(_trained(net), self.lr) for name, net in zip(NAMES, self.model.learners)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        features, live, lengths = batch["features"].float(), batch["live"], batch["length"]
        if self.stage == "meta":
            loss = frame_loss(self.model.meta(self.model.votes(features)), live, lengths)
            update("model", loss)
            return {"loss": loss.detach()}
        logs = {}
        for name, learner in zip(NAMES, self.model.learners):
            loss = frame_loss(learner(features), live, lengths)
            update(name, loss)
            logs[name] = loss.detach()
        return logs

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Loss of what is trained."""
        features, live, lengths = batch["features"].float(), batch["live"], batch["length"]
        if self.stage == "meta":
            return {"loss": float(frame_loss(self.model.meta(self.model.votes(features)), live, lengths))}
        losses = [float(frame_loss(learner(features), live, lengths)) for learner in self.model.learners]
        return dict(zip(NAMES, losses))


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.requires_grad]
