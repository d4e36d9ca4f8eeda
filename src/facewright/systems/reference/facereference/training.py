"""How FaceReference is trained: towards the truth in pixels and towards the person in the eyes of a recogniser.

The frozen networks' part is computed once (`data.references`). Losses are taken at half the crop's size, where the
correction is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....losses.face import FaceLoss
from ....losses.reconstruction import charbonnier, edge_loss
from ....training.trainer import Batch, Training, Update, signed
from .network import References

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import FaceReference


class FaceReferenceTraining(Training):
    """Charbonnier and gradient losses inside the photo, identity and feature distance by the embedded recogniser."""

    def __init__(
        self,
        model: FaceReference,
        *,
        lr: float = 1e-3,
        edge_weight: float = 0.5,
        identity_weight: float = 0.15,
        features_weight: float = 0.15,
    ) -> None:
        from ...recognise.distilledface.network import DistilledFace

        self.model: FaceReference = model
        self.lr, self.edge_weight = lr, edge_weight
        self.identity_weight, self.features_weight = identity_weight, features_weight
        self.face = FaceLoss(DistilledFace.from_pretrained(), model.config.size // 2)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, betas=(0.9, 0.99), weight_decay=1e-2)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        before, after, high, mask = self._views(batch)
        distance = self.face.to(high.device)(torch.where(mask > 0, after, high), high)
        losses = {
            "pixel": charbonnier(after, high, mask),
            "edge": self.edge_weight * edge_loss(after, high, mask),
            "identity": self.identity_weight * distance.identity,
            "features": self.features_weight * distance.features,
        }
        update("model", torch.stack(list(losses.values())).sum())
        return {k: v.detach() for k, v in losses.items()} | {"moved": (after - before).detach().abs().mean()}

    def _views(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """FRGP's output, the corrected one, the truth (N, 3, S/2, S/2) and where the photo is, at half the size."""
        restored = signed(batch["restored"])
        before, high = F.avg_pool2d(restored, 2), F.avg_pool2d(signed(batch["hq"]), 2)
        mask = (F.avg_pool2d(batch["mask"].float(), 2) == 1).float()
        after = before + self.model.correct(restored, batch["coarse"], batch["fine"], references_of(batch))
        return before, after.float(), high, mask

    def validate(self, batch: Batch) -> Mapping[str, float]:
        before, after, high, mask = self._views(batch)
        shown, plain = self.face(after.clamp(-1, 1), high), self.face(before, high)
        return {
            "identity": 1 - float(shown.identity),
            "identity_before": 1 - float(plain.identity),
            "features": float(shown.features),
            "features_before": float(plain.features),
            "psnr": _psnr(after.clamp(-1, 1), high, mask),
            "psnr_before": _psnr(before, high, mask),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to eight faces: damaged, restored blindly, with references, true."""
        count = min(8, len(batch["hq"]))
        part = {key: value[:count] for key, value in batch.items()}
        _, after, _, _ = self._views(part)
        pixels = after.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        plain = [[_half(face) for face in part[key].cpu().numpy()] for key in ("damaged", "restored", "hq")]
        rows = [plain[0], plain[1], list(pixels), plain[2]]
        return np.asarray(np.vstack([np.hstack(row) for row in rows]), np.uint8)


def references_of(batch: Batch) -> References:
    """The references in a batch of `data.references.ReferencePairs`."""
    parts = (batch[f"ref_{name}"] for name in ("coarse", "fine", "identity"))
    return References(*parts, batch["present"])


def _half(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = len(image) // 2
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _psnr(a: Tensor, b: Tensor, mask: Tensor) -> float:
    error = ((a - b) * 127.5) ** 2 * mask
    mse = error.sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return float((10 * torch.log10(255**2 / mse.clamp(min=1e-3))).mean())
