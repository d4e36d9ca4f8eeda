"""How GFPGAN is trained: reconstruction, a pyramid, an adversary, one more for each component, and the identity.

The terms are those of the paper (arXiv 2101.04061, section 3.4), their weights those of its released options. Two
networks of others are replaced: VGG and the identity network by the recogniser of this package, which gives feature
maps and an embedding; and the components' discriminators are this project's patch discriminator, at boxes of an upright
face instead of landmarks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError, WeightsError
from ....losses.adversarial import r1_penalty, softplus_discriminator, softplus_generator
from ....losses.face import FaceLoss
from ....losses.reconstruction import l1, whole_cells
from ....nn.discriminator import PatchDiscriminator
from ....nn.stylegan2 import Discriminator
from ....training.lazy import StepCount
from ....training.trainer import Batch, Training, Update, signed
from ..dfdnet.network import PARTS, upright_boxes
from ..frgp.network import convert_prior

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from ...recognise.recogniser import Recogniser
    from .network import GFPGAN

COMPONENTS = ("left_eye", "right_eye", "mouth")
_CROP = 16  # the patch discriminator halves four times: crops have a multiple of that


class GFPGANTraining(Training):
    """One stage: all parts learn together, the generator from `prior`, a folder or file of a StyleGAN2.

    Batches hold `lq`, `hq` (N, S, S, 3) uint8 RGB and `mask` (N, 1, S, S); what is outside the photo is black to both
    adversaries. Until `pyramid_until` of the training the decoder's images are judged, too. `recogniser` looks for
    identity and features; the embedded one if None.
    """

    def __init__(
        self,
        model: GFPGAN,
        *,
        prior: str | Path = "",
        recogniser: Recogniser | None = None,
        lr: float = 2e-3,
        l1_weight: float = 0.1,
        features_weight: float = 1.0,
        pyramid_weight: float = 1.0,
        pyramid_until: float = 0.06,
        gan_weight: float = 0.1,
        component_weight: float = 1.0,
        style_weight: float = 200.0,
        identity_weight: float = 10.0,
        r1_gamma: float = 10.0,
        r1_every: int = 16,
        component_width: int = 64,
    ) -> None:
        if recogniser is None:
            from ...recognise.distilledface.network import DistilledFace

            recogniser = DistilledFace.from_pretrained()
        c = model.config
        self.model: GFPGAN = model
        if prior:
            load_prior(model, prior)
        self.discriminator = Discriminator(c.size, channel_multiplier=c.channel_multiplier, narrow=c.narrow)
        self.components = nn.ModuleDict({name: PatchDiscriminator(component_width) for name in COMPONENTS})
        self.face = FaceLoss(recogniser, c.size)
        self.lr = lr
        self.l1_weight, self.features_weight, self.identity_weight = l1_weight, features_weight, identity_weight
        self.pyramid_weight, self.pyramid_until = pyramid_weight, pyramid_until
        self.gan_weight, self.component_weight, self.style_weight = gan_weight, component_weight, style_weight
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.register = {name: box for name, box in zip(PARTS, upright_boxes(c.size).tolist()) if name in COMPONENTS}
        self.count = StepCount()

    def modules(self) -> dict[str, nn.Module]:
        return {
            "model": self.model,
            "discriminator": self.discriminator,
            "components": self.components,
            "count": self.count,
        }

    def optimisers(self) -> dict[str, Optimizer]:
        learnt = [p for p in self.model.parameters() if p.requires_grad]
        return {
            "model": torch.optim.Adam(learnt, self.lr, betas=(0.9, 0.99)),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), self.lr, betas=(0.9, 0.99)),
            "components": torch.optim.Adam(self.components.parameters(), self.lr, betas=(0.9, 0.99)),
        }

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"].float()
        restored, pyramid = self.model(low, return_pyramid=True)
        losses = self._reconstruction(restored.float(), high, mask)
        if progress < self.pyramid_until:
            losses["pyramid"] = self.pyramid_weight * pyramid_loss(pyramid, high, mask)
        losses |= self._adversarial(restored.float() * mask, high * mask)
        update("model", torch.stack(list(losses.values())).sum())
        logs: dict[str, float | Tensor] = {key: value.detach() for key, value in losses.items()}
        return logs | self._discriminate(restored.detach().float() * mask, high * mask, update)

    def _reconstruction(self, restored: Tensor, high: Tensor, mask: Tensor) -> dict[str, Tensor]:
        distance = self.face.to(restored.device)(torch.where(mask > 0, restored, high), high)
        return {
            "l1": self.l1_weight * l1(restored, high, mask),
            "features": self.features_weight * distance.features,
            "identity": self.identity_weight * distance.identity,
        }

    def _adversarial(self, restored: Tensor, high: Tensor) -> dict[str, Tensor]:
        self._learning(on=False)
        found = {"gan": self.gan_weight * softplus_generator(self.discriminator(restored).float())}
        fooled, unlike = [], []
        for name, judge in self.components.items():
            logits, made = judge(self._crop(restored, name))
            with torch.no_grad():
                _, real = judge(self._crop(high, name))
            fooled.append(softplus_generator(logits.float()))
            unlike.append(torch.stack([F.l1_loss(gram(a), gram(b)) for a, b in zip(made, real)]).sum())
        self._learning(on=True)
        found["component"] = self.component_weight * torch.stack(fooled).sum()
        found["style"] = self.style_weight * torch.stack(unlike).sum()
        return found

    def _discriminate(self, restored: Tensor, high: Tensor, update: Update) -> dict[str, float | Tensor]:
        loss = softplus_discriminator(self.discriminator(high).float(), self.discriminator(restored).float())
        update("discriminator", loss)
        logs: dict[str, float | Tensor] = {"d": loss.detach()}
        if self.count.due(self.r1_every):
            logs["r1"] = self._penalise(high, update)
        self.count.steps += 1
        parts = []
        for name, judge in self.components.items():
            real, made = (judge(self._crop(image, name))[0].float() for image in (high, restored))
            parts.append(softplus_discriminator(real, made))
        update("components", torch.stack(parts).sum())
        logs["d_components"] = torch.stack(parts).sum().detach()
        return logs

    def _penalise(self, high: Tensor, update: Update) -> Tensor:
        """R1 in float32, weighted for all the steps it stands for."""
        with torch.autocast(high.device.type, enabled=False):
            images = high.detach().requires_grad_()
            penalty = r1_penalty(self.discriminator(images), images)
            update("discriminator", self.r1_gamma / 2 * self.r1_every * penalty)
        return penalty.detach()

    def _learning(self, *, on: bool) -> None:
        self.discriminator.requires_grad_(on)
        self.components.requires_grad_(on)

    def _crop(self, image: Tensor, name: str) -> Tensor:
        """A component (N, 3, h, h), its side a multiple of 16."""
        x0, y0, x1, y1 = self.register[name]
        side = max(2 * _CROP, round((x1 - x0) / _CROP) * _CROP)
        part = image[:, :, y0:y1, x0:x1]
        return F.interpolate(part, (side, side), mode="bilinear", align_corners=False)

    def validate(self, batch: Batch) -> Mapping[str, float]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"].float()
        restored: Tensor = self.model(low)
        losses = self._reconstruction(restored.float(), high, mask)
        return {key: float(value) for key, value in losses.items()} | {"l1_input": float(l1(low, high, mask))}

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to eight faces: damaged, restored, true."""
        given, wanted = (batch[key][:8].cpu().numpy() for key in ("lq", "hq"))
        sheet = np.vstack([np.hstack(list(row)) for row in (given, self.model.restore(given), wanted)])
        scale = min(1.0, 2400 / sheet.shape[1])
        return np.asarray(cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def pyramid_loss(pyramid: list[Tensor], high: Tensor, mask: Tensor) -> Tensor:
    """Sum of the L1 of the decoder's images (N, 3, s, s) to the truth reduced to each size (section 3.3)."""
    terms = []
    for image in pyramid:
        side = image.shape[-2:]
        wanted = F.interpolate(high, side, mode="bilinear", align_corners=False, antialias=True)
        terms.append(l1(image.float(), wanted, whole_cells(mask, (int(side[0]), int(side[1])))))
    return torch.stack(terms).sum()


def gram(features: Tensor) -> Tensor:
    """(N, C, C): products of channels of (N, C, H, W), per number of a map."""
    flat = features.float().flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def load_prior(model: GFPGAN, source: str | Path) -> None:
    """Start the generator of the clean form from a StyleGAN2; WeightsError when it is of another size or width."""
    from ...synthesise.stylegan2.network import StyleGAN2

    if model.config.form != "clean":
        raise UsageError("a prior can be put into the clean form of GFPGAN only")
    state = convert_prior(StyleGAN2.from_pretrained(source).generator.state_dict())
    try:
        model.generator.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source} is a prior of another size or width than this GFPGAN's: {error}") from error
