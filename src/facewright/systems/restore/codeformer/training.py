"""How CodeFormer is trained, in three stages (arXiv 2206.11253, section 3): a codebook of good faces, the prediction of
its codes from damaged ones, and the modules that let the picture change what is painted.

The second stage and the third know what is right by the first one's network: the codes it gives the undamaged picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ....errors import WeightsError
from ....losses.reconstruction import masked_mean, whole_cells
from ....training.trainer import Batch, Training, Update, signed
from ..codebook_training import CodebookTraining
from .network import CodeFormer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer


class CodebookStage(CodebookTraining):
    """Stage one: the auto-encoder reconstructs good faces; the transformer does not take part."""

    source = "hq"
    model: CodeFormer

    def __init__(self, model: CodeFormer, **options: Any) -> None:
        super().__init__(model, **options)
        model.net.requires_grad_(True)

    def groups(self) -> list[dict[str, object]]:
        return [{"params": list(self.model.net.parameters())}]

    @property
    def last_weight(self) -> Tensor:
        return self.model.net.decoder.conv_out.weight

    def restored(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        image, quantised = self.model.net(signed(batch[self.source]))
        return image, {"code_loss": quantised.loss, "codes": quantised.indices}

    @torch.no_grad()
    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to eight good faces and what the codebook makes of them."""
        part = {key: value[:8] for key, value in batch.items()}
        made = self.restored(part)[0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        rows = [part["hq"].cpu().numpy(), made.permute(0, 2, 3, 1).cpu().numpy()]
        return np.asarray(np.vstack([np.hstack(list(row)) for row in rows]), np.uint8)


class CodeLoss:
    """The code-level loss of a prediction: λ · cross entropy of the codes + mean square to the codes' features.

    `dictionary` is the network of stage one. Positions whose picture is not wholly in the photo do not count.
    """

    def __init__(self, dictionary: CodeFormer, token_weight: float) -> None:
        self.dictionary = dictionary.eval().requires_grad_(False)
        self.token_weight = token_weight

    @torch.no_grad()
    def wanted(self, truth: Tensor) -> Tensor:
        """Numbers (N, h, w) of the codes of undamaged pictures (N, 3, S, S)."""
        latents, _ = self.dictionary.net.encode(truth)
        codes: Tensor = self.dictionary.net.quantiser(latents).indices
        return codes

    def __call__(self, logits: Tensor, features: Tensor, truth: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """`token` and `features`, weighted, and the share of codes that are `right`; logits (N, T, codes)."""
        codes = self.wanted(truth)
        inside = whole_cells(mask, features.shape[-2:])
        entropy = F.cross_entropy(logits.float().movedim(2, 1), codes.flatten(1), reduction="none").view(codes.shape)
        away = (features.float() - self.dictionary.net.quantiser.lookup(codes)).square()
        right = (logits.argmax(2).view(codes.shape) == codes).float()
        return {
            "token": self.token_weight * masked_mean(entropy[:, None], inside),
            "features": masked_mean(away, inside),
            "right": masked_mean(right[:, None], inside).detach(),
        }


class CodePredictionStage(Training):
    """Stage two: encoder and transformer learn to name the codes; codebook and decoder are those of `dictionary`.

    Batches hold `lq`, `hq` (N, S, S, 3) uint8 RGB and `mask` (N, 1, S, S). λ is `token_weight`.
    """

    def __init__(
        self, model: CodeFormer, *, dictionary: str | Path, lr: float = 1e-4, token_weight: float = 0.5
    ) -> None:
        self.model: CodeFormer = model
        self.lr = lr
        first = _opened(dictionary, model)
        model.net.load_state_dict(first.net.state_dict())
        self.codes = CodeLoss(first, token_weight)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        named = self.model.named_parameters()
        learnt = [p for name, p in named if p.requires_grad and not name.startswith("transforms.")]
        return {"model": torch.optim.Adam(learnt, self.lr, betas=(0.9, 0.99))}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        losses = self._losses(batch)
        update("model", losses["token"] + losses["features"])
        return {key: value.detach() for key, value in losses.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        logits, features = self.model.predict_codes(signed(batch["lq"]))
        return self.codes(logits, features, signed(batch["hq"]), batch["mask"].float())

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {key: float(value) for key, value in self._losses(batch).items()}

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to eight faces: damaged, painted from the predicted codes alone, true."""
        given, wanted = (batch[key][:8].cpu().numpy() for key in ("lq", "hq"))
        rows = [given, self.model.restore(given, fidelity=0.0), wanted]
        return np.asarray(np.vstack([np.hstack(list(row)) for row in rows]), np.uint8)


class FusionStage(CodebookTraining):
    """Stage three: all but codebook and decoder learn at fidelity 1; start it from what stage two saved (`start_from`).

    The code-level loss goes on beside the losses of the picture; these are balanced in the last transform.
    """

    source = "lq"
    model: CodeFormer

    def __init__(self, model: CodeFormer, *, dictionary: str | Path, token_weight: float = 0.5, **options: Any) -> None:
        super().__init__(model, **options)
        self.codes = CodeLoss(_opened(dictionary, model), token_weight)

    @property
    def last_weight(self) -> Tensor:
        last: Any = self.model.transforms[str(max(self.model.config.fuse_at))]
        weight: Tensor = last.shift[-1].weight
        return weight

    def restored(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        image, aux = self.model(signed(batch["lq"]), fidelity=1.0, adain=False, return_aux=True)
        losses = self.codes(aux["logits"], aux["features"], signed(batch["hq"]), batch["mask"].float())
        return image, {"code_loss": losses["token"] + losses["features"], "codes": aux["logits"].argmax(2)}


def _opened(dictionary: str | Path, model: CodeFormer) -> CodeFormer:
    """The network of stage one; WeightsError when it is of another shape."""
    first = CodeFormer.from_pretrained(dictionary)
    if first.config.layout != model.config.layout:
        raise WeightsError(f"{dictionary} is of another auto-encoder than this CodeFormer's")
    return first
