"""How ReF-LDM is trained: to predict noise, and to keep the person where the guess is good enough to judge.

L = |ε − ε̂|² + 0.1 · √ᾱ_t · (1 − cos(φ(x̂), φ(x))), the second term on the image that the guess at time t decodes to: √ᾱ
takes it back where that is still a blur (paper, section 3.3). The paper prints an L1 for the first term, the released
configuration has the square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update, signed
from ...recognise.recogniser import embedding_distance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from ....nn.diffusion import NoiseSchedule
    from ...recognise.recogniser import Recogniser
    from .network import RefLDM

NoiseLoss = Literal["l1", "l2"]
_MARGIN = 1 / 16  # of the side, cut off all around before the recogniser looks


class CropIdentity(nn.Module):
    """1 − cosine of faces on the `ffhq` template to a frozen recogniser, (N,): φ of the paper.

    forward: `prediction` and `target` (N, 3, S, S) RGB in [−1, 1]. A sixteenth of the side is cut off all around and
    the rest averaged down to the recogniser's side, without its alignment, as the released code does. Gradients reach
    `prediction` only.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        self.backbone = recogniser.backbone.eval().requires_grad_(False)
        self.side = recogniser.preprocess.size

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.backbone(self.crop(target))
        return embedding_distance(self.backbone(self.crop(prediction)), wanted)

    def crop(self, image: Tensor) -> Tensor:
        """What the recogniser is shown, (N, 3, side, side)."""
        edge = round(image.shape[-1] * _MARGIN)
        inner = image[..., edge : image.shape[-2] - edge, edge : image.shape[-1] - edge]
        return F.interpolate(inner.float(), size=(self.side, self.side), mode="area")


def noise_loss(predicted: Tensor, noise: Tensor, kind: NoiseLoss) -> Tensor:
    """Mean error of the predicted noise."""
    if kind not in get_args(NoiseLoss):
        raise UsageError(f"noise loss {kind!r}: choose one of {', '.join(get_args(NoiseLoss))}")
    return F.l1_loss(predicted, noise) if kind == "l1" else F.mse_loss(predicted, noise)


def scaled_identity(distance: Tensor, time: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Mean of (N,) identity distances, each times √ᾱ of its time (N,)."""
    return (schedule.at(time, distance).sqrt() * distance).mean()


def dropped(given: Tensor, references: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Latents of damaged faces (N, …) and of references (N, R, …), a share of each zeroed; a face's references all at
    once, so that the network learns what it is to have none."""
    count, device = len(given), given.device
    keep_given, keep_references = (torch.rand(count, device=device) >= share for _ in range(2))
    return (
        given * keep_given.view(-1, *[1] * (given.dim() - 1)),
        references * keep_references.view(-1, *[1] * (references.dim() - 1)),
    )


class RefLDMTraining(Training):
    """Noise loss and the timestep-scaled identity loss; references are remembered anew in every step, with gradients.

    A batch has `lq`, `hq` (N, S, S, 3) and `references` (N, R, S, S, 3), uint8 RGB. `recogniser` looks for `identity`;
    the embedded one if None. `judged` is how many faces of a batch the identity loss decodes, as many as memory allows.
    """

    def __init__(
        self,
        model: RefLDM,
        *,
        recogniser: Recogniser | None = None,
        lr: float = 5e-5,
        identity_weight: float = 0.1,
        drop: float = 0.1,
        loss: NoiseLoss = "l2",
        judged: int = 8,
    ) -> None:
        if recogniser is None:
            from ...recognise.distilledface.network import DistilledFace

            recogniser = DistilledFace.from_pretrained()
        self.model: RefLDM = model
        self.schedule = model.schedule
        self.identity = CropIdentity(recogniser)
        self.lr, self.identity_weight, self.drop, self.judged = lr, identity_weight, drop, judged
        self.kind: NoiseLoss = loss

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.unet.parameters(), self.lr)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        losses = self.losses(batch)
        update("model", torch.stack(list(losses.values())).sum())
        return {key: value.detach() for key, value in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of one batch; times and noise are drawn by torch's generator."""
        model = self.model
        truth = signed(batch["hq"])
        clean, given = model.encode(truth), model.encode(signed(batch["lq"]))
        crops = batch["references"]
        pictures = signed(crops.flatten(0, 1))
        seen = model.encode_references(pictures.view(*crops.shape[:2], *pictures.shape[1:]))
        given, seen = dropped(given, seen, self.drop)
        time = torch.randint(self.schedule.times, (len(clean),), device=clean.device)
        noise = torch.randn_like(clean)
        noisy = self.schedule.noised(clean, noise, time)
        predicted = model.predict(noisy, given, time, model.remember(seen))
        found = {"noise": noise_loss(predicted.float(), noise, self.kind)}
        if self.identity_weight:
            part = slice(self.judged)
            guess = model.decode(self.schedule.clean(noisy[part], predicted[part].float(), time[part]))
            distance = self.identity.to(guess.device)(guess, truth[part])
            found["identity"] = self.identity_weight * scaled_identity(distance, time[part], self.schedule)
        return found

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {key: float(value) for key, value in self.losses(batch).items()}

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to four faces: damaged, restored by their references, true."""
        low, high = batch["lq"][:4].cpu().numpy(), batch["hq"][:4].cpu().numpy()
        restored = self.model.restore_by(low, list(batch["references"][:4].cpu().numpy()))
        return np.asarray(np.vstack([np.hstack(list(row)) for row in (low, restored, high)]), np.uint8)
