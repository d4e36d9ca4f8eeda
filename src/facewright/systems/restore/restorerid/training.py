"""How RestorerID is trained, in two stages: first to see structure, then to balance structure and identity.

Both predict noise at uniform times, with the empty text; there is no identity loss. Stage "structure" trains the
encoder of the damaged face and the modulations of a network without references; stage "identity" the rebalancing
alone, with tokens of fixed strength. A share of the references becomes nobody, a share of the structure nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import RestorerID

Stage = Literal["structure", "identity"]


class RestorerIDTraining(Training):
    """One stage of the paper's recipe, by AdamW.

    A batch has `lq` and `hq` (N, S, S, 3); in stage "identity" also `references` (N, R, S, S, 3); uint8 RGB.
    """

    def __init__(self, model: RestorerID, *, stage: Stage = "identity", lr: float = 5e-5, drop: float = 0.05) -> None:
        if stage not in get_args(Stage):
            raise UsageError(f"stage {stage!r}: choose one of {', '.join(get_args(Stage))}")
        self.model: RestorerID = model
        self.stage, self.lr, self.drop = stage, lr, drop
        model.requires_grad_(False)
        for value in self.learnt().values():
            value.requires_grad_(True)

    def learnt(self) -> dict[str, nn.Parameter]:
        """What this stage trains, by name."""
        balance = self.stage == "identity"
        return {name: value for name, value in self.model.added().items() if (".IDBalance." in name) == balance}

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(list(self.learnt().values()), self.lr)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        loss = self.loss(batch)
        update("model", loss)
        return {"noise": loss.detach()}

    def loss(self, batch: Batch) -> Tensor:
        """Mean square error of the predicted noise; times, noise and drops are drawn by torch's generator."""
        model = self.model
        clean, given = model.encode(signed(batch["hq"])), model.encode(signed(batch["lq"]))
        count, device = len(clean), clean.device
        given = given * self._kept(count, device)
        time = torch.randint(model.config.times, (count,), device=device)
        noise = torch.randn_like(clean)
        noisy = model.schedule.noised(clean, noise, time)
        condition = model.condition(0, count, self._tokens(batch), model.config.strength)
        predicted = model.predict(noisy, given, time, condition)
        return F.mse_loss(predicted.float(), noise)

    def _tokens(self, batch: Batch) -> Tensor | None:
        if self.stage == "structure":
            return None
        crops = batch["references"]
        count, references = crops.shape[:2]
        pictures = signed(crops.flatten(0, 1))
        with torch.no_grad():
            self.model.recogniser.eval()
            tokens = self.model.identity(pictures.view(count, references, *pictures.shape[1:]))
            nobody = self.model.nobody(count, references).to(tokens)
        return torch.where(self._kept(count, tokens.device)[..., 0] > 0, tokens, nobody)

    def _kept(self, count: int, device: torch.device) -> Tensor:
        """(count, 1, 1, 1): 0 for the share that is dropped, else 1."""
        return (torch.rand(count, 1, 1, 1, device=device) >= self.drop).float()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {"noise": float(self.loss(batch))}

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to four faces: damaged, restored (by their references, if there are any), true."""
        low, high = batch["lq"][:4].cpu().numpy(), batch["hq"][:4].cpu().numpy()
        own = list(batch["references"][:4].cpu().numpy()) if self.stage == "identity" else None
        restored = self.model.restore_by(low, own, quality=lambda crops: [self.model.config.quality_full] * len(crops))
        return np.asarray(np.vstack([np.hstack(list(row)) for row in (low, restored, high)]), np.uint8)
