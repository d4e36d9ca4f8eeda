"""How PVA is trained: to predict the noise of whole pictures; and in forty steps to one person.

The released configuration weighs an identity loss with 0; it is left out here. Stage 1 trains the new projections, what
makes tokens, and the word; stage 2 the recogniser as well, which stays in evaluation mode. Every batch is seen at
several times, drawn from as many equal parts of the schedule, with fresh noise each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.paste import face_mask
from ....geometry.templates import template_points
from ....nn.sd import Condition
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import PVA

PERSONAL_STEPS, PERSONAL_LR, _ACCUMULATED, _PERSONAL_TIMES = 40, 2e-5, 2, 2
_DECAY = 1e-2


def stratified(count: int, times: int, schedule_times: int) -> Tensor:
    """(times · count,) times, of each of `times` equal parts of the schedule `count` drawn ones."""
    edges = torch.linspace(0, schedule_times, times + 1).long()
    return torch.cat([torch.randint(int(a), int(b), (count,)) for a, b in zip(edges, edges[1:])])


def noise_error(model: PVA, image: Tensor, hole: Tensor, references: Tensor, times: int) -> Tensor:
    """Mean square error of the predicted noise, over the whole latent, at stratified times."""
    clean, known = model.encode(image), model.known(image, hole)
    tokens, words = model.visual(references), model.words("", len(image))
    clean, known, tokens, words = (torch.cat([value] * times) for value in (clean, known, tokens, words))
    time = stratified(len(image), times, model.config.times).to(image.device)
    noise = torch.randn_like(clean)
    noisy = model.schedule.noised(clean, noise, time)
    predicted = model.predict(noisy, known, time, Condition(words, tokens))
    return F.mse_loss(predicted.float(), noise)


class PVATraining(Training):
    """Stages 1 ("references") and 2 ("recogniser") of the paper's recipe.

    A batch has `image` (N, S, S, 3) and `references` (N, R, S, S, 3), uint8 RGB, and `hole` (N, 1, S, S). `lr` is the
    base rate, which the paper multiplies by the number of samples a step: 1e-6 · samples. `times` is how often a batch
    is seen at once.
    """

    def __init__(
        self,
        model: PVA,
        *,
        stage: Literal["references", "recogniser"] = "references",
        lr: float = 8e-6,
        transform_lr: float = 3.2e-5,
        word_lr: float = 1e-3,
        times: int = 4,
    ) -> None:
        if stage not in ("references", "recogniser"):
            raise UsageError(f"stage {stage!r}: choose references or recogniser")
        self.model: PVA = model
        self.lr, self.transform_lr, self.word_lr, self.times = lr, transform_lr, word_lr, times
        if stage == "recogniser":
            model.recogniser.requires_grad_(True)
            model.recogniser.features.weight.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        model = self.model
        visual = [value for name, value in model.added().items() if ".to_visual_" in name]
        rest = [value for value in model.recogniser.parameters() if value.requires_grad]
        groups = [
            {"params": visual + rest, "lr": self.lr},
            {"params": list(model.transform.parameters()), "lr": self.transform_lr},
            {"params": [model.modifier], "lr": self.word_lr},
        ]
        return {"model": torch.optim.AdamW(groups, self.lr, weight_decay=_DECAY)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        loss = self._loss(batch)
        update("model", loss)
        return {"noise": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {"noise": float(self._loss(batch))}

    def _loss(self, batch: Batch) -> Tensor:
        crops = batch["references"]
        pictures = signed(crops.flatten(0, 1))
        seen = pictures.view(*crops.shape[:2], *pictures.shape[1:])
        return noise_error(self.model, signed(batch["image"]), batch["hole"].float(), seen, self.times)


def personalise(
    model: PVA, references: NDArray[np.uint8], *, steps: int = PERSONAL_STEPS, lr: float = PERSONAL_LR, seed: int = 0
) -> PVA:
    """A network that has learnt one person from (R, S, S, 3) uint8 RGB crops of her in a few steps (section 3.3).

    The new projections and the word are trained, with the whole face as the hole; what makes tokens stays. `model` is
    not changed; the result shares its frozen weights. UsageError without references.
    """
    if not len(references):
        raise UsageError("there is nobody to learn: give references")
    own = model.apart()
    own.transform.requires_grad_(False)
    learnt = [value for value in own.added().values() if value.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr, weight_decay=_DECAY)
    side = references.shape[1]
    oval = torch.from_numpy(face_mask(template_points("ffhq", side), side) > 0).to(model.device)[None, None].float()
    pictures = model.normalise(references)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        own.eval()
        for _ in range(steps):
            for _ in range(_ACCUMULATED):
                which = int(torch.randint(len(pictures), ()))
                loss = noise_error(own, pictures[which : which + 1], oval, pictures[None], _PERSONAL_TIMES)
                (loss / _ACCUMULATED).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
    return own.eval()
