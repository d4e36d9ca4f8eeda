"""How FRGP is trained: the full-size form in two stages around a prior, the compact weights from their input.

The paper's own training text is not available; terms and weights here follow what GFPGAN and GPEN publish, for the
compact weights scaled to a network that starts from its input (see `Config.residual`): reconstruction and the eyes of a
recogniser, then a light adversarial finish.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from ....errors import UsageError
from ....losses.adversarial import (
    hinge_discriminator,
    hinge_generator,
    r1_penalty,
    softplus_discriminator,
    softplus_generator,
)
from ....losses.consistency import MeanTeacher, feature_alignment, latent_alignment, latent_disagreement
from ....losses.face import FaceLoss
from ....losses.reconstruction import (
    charbonnier,
    edge_loss,
    feature_matching,
    l1,
    log_mse,
    pyramid_l1,
    ssim_loss,
    whole_cells,
)
from ....metrics.lpips import LPIPS
from ....nn.discriminator import PatchDiscriminator
from ....nn.stylegan2 import Discriminator
from ....training.trainer import Batch, Training, Update, signed
from ....training.warm_start import grow
from ....weights.store import load_published

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import FRGP

Perceptual = Literal["face", "lpips"]

_BETAS = (0.9, 0.99)


class FRGPTraining(Training):
    """Masked pixel losses, face losses, the estimate of the damage, and from `gan_from` on a discriminator.

    The pixel losses are Charbonnier's, the logarithm of the squared error, gradients and SSIM. The face losses
    (identity, features) are those of the embedded recogniser; without weights for them it is not loaded. `grow_from`
    names weights of the same network without light blocks or damping to begin with.

    `free_fidelity` is the share of samples restored at a random fidelity, so that the dial means something between its
    ends. `gan_weight` and `feature_weight` weigh the adversarial and the feature-matching term.
    """

    def __init__(
        self,
        model: FRGP,
        *,
        lr: float = 4e-4,
        style_lr: float = 0.2,
        discriminator_lr: float = 4e-4,
        log_weight: float = 0.0,
        edge_weight: float = 1.0,
        ssim_weight: float = 0.0,
        estimate_weight: float = 0.1,
        identity_weight: float = 0.0,
        features_weight: float = 0.0,
        grow_from: str = "",
        free_fidelity: float = 0.08,
        gan_from: float = 1.0,
        gan_weight: float = 0.02,
        feature_weight: float = 0.2,
        discriminator_width: int = 48,
    ) -> None:
        self.model: FRGP = model
        if grow_from:
            grow(model, grow_from, ".light.", "damping.")
        self.identity_weight, self.features_weight = identity_weight, features_weight
        self.face = _face_loss(model.config.size) if identity_weight or features_weight else None
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.lr, self.style_lr, self.discriminator_lr = lr, style_lr, discriminator_lr
        self.log_weight, self.edge_weight, self.ssim_weight = log_weight, edge_weight, ssim_weight
        self.estimate_weight = estimate_weight
        self.free_fidelity = free_fidelity
        self.gan_from, self.gan_weight, self.feature_weight = gan_from, gan_weight, feature_weight

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "discriminator": self.discriminator}

    def optimisers(self) -> dict[str, Optimizer]:
        return {
            "model": torch.optim.AdamW(self._groups(), self.lr, betas=(0.9, 0.999), weight_decay=1e-4),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), self.discriminator_lr, betas=(0.0, 0.99)
            ),
        }

    def _groups(self) -> list[dict[str, Any]]:
        """Styles multiply whole feature maps: what makes them learns more slowly, as StyleGAN2's mapping does."""
        styles: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (styles if "modulation" in name or name.startswith("to_latent") else others).append(parameter)
        return [{"params": others}, {"params": styles, "lr": self.style_lr * self.lr}]

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"].float()
        count = len(low)
        free = torch.rand(count) < self.free_fidelity
        fidelity = torch.where(free, torch.rand(count), torch.ones(count)).to(low.device)
        restored, aux = self.model(low, fidelity=fidelity, return_aux=True)
        losses = {
            "l1": charbonnier(restored, high, mask),
            "edge": self.edge_weight * edge_loss(restored, high, mask),
            "estimate": self.estimate_weight * l1_loss(aux["degradation"].float(), batch["degradation"]),
        }
        if self.log_weight:
            losses["log"] = self.log_weight * log_mse(restored.float(), high, mask)
        if self.ssim_weight:
            with torch.autocast(low.device.type, enabled=False):  # variances as differences of squares need the digits
                losses["ssim"] = self.ssim_weight * ssim_loss(restored, high, mask)
        if self.face is not None:
            losses |= self._face_terms(restored, high, mask)
        adversarial = progress >= self.gan_from
        if adversarial:
            losses |= self._adversarial(restored, high, mask)
        update("model", torch.stack(list(losses.values())).sum())
        logs: dict[str, float | Tensor] = {k: v.detach() for k, v in losses.items()}
        if adversarial:
            logs["d"] = self._discriminate(restored.detach(), high, mask, update)
        return logs

    def _face_terms(self, restored: Tensor, high: Tensor, mask: Tensor) -> dict[str, Tensor]:
        assert self.face is not None
        distance = self.face.to(high.device)(torch.where(mask > 0, restored, high), high)
        return {
            "identity": self.identity_weight * distance.identity,
            "perceptual": self.features_weight * distance.features,
        }

    def _adversarial(self, restored: Tensor, high: Tensor, mask: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        logits, features = self.discriminator(restored * mask)
        with torch.no_grad():
            _, wanted = self.discriminator(high * mask)
        self.discriminator.requires_grad_(True)
        return {
            "gan": self.gan_weight * hinge_generator(_valid(logits, mask)),
            "features": self.feature_weight * feature_matching(features, wanted, mask),
        }

    def _discriminate(self, restored: Tensor, high: Tensor, mask: Tensor, update: Update) -> Tensor:
        fake, _ = self.discriminator(restored * mask)
        real, _ = self.discriminator(high * mask)
        loss = hinge_discriminator(_valid(real, mask), _valid(fake, mask))
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"]
        restored, aux = self.model(low, return_aux=True)
        clean, _ = self.model(high, return_aux=True)
        estimate = (aux["degradation"].float() - batch["degradation"]).abs().mean(0)
        found: dict[str, float] = {}
        if self.face is not None:
            after, before = self.face(restored.clamp(-1, 1), high), self.face(low, high)
            found = {"identity": 1 - float(after.identity), "identity_input": 1 - float(before.identity)}
            found |= {"features": float(after.features), "features_input": float(before.features)}
        return found | {
            "psnr": _psnr(restored, high, mask),
            "psnr_input": _psnr(low, high, mask),
            "psnr_clean": _psnr(clean, high, mask),
            "estimate_psnr": 50 * float(estimate[4]),
            "estimate_ssim": float(estimate[5]),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        return _sheet(self.model, batch)


class FRGPTwoStageTraining(Training):
    """The full-size form: a codec in front of a trained StyleGAN2, first with the prior frozen, then together.

    Until `prior_from` of the training the generator gets no gradient, afterwards it learns at `prior_rate` of the
    codec's rate. `prior` is a file of its weights (see `convert_prior`) or what `StyleGAN2.from_pretrained` takes, such
    as the folder of a trained one; "" keeps those of the model. The reconstruction's pyramid term ends at
    `pyramid_until`, lest the codec goes on painting the blurred means that it asks for.

    Perceptual and identity terms are those of the embedded recogniser, or the first is LPIPS-VGG where its files are
    (`perceptual: lpips`); a weight of 0 leaves a network out. The discriminator, StyleGAN2's with the R1 penalty once
    in `r1_every` steps, takes part from `gan_from` on; `gan_weight` 0 does without.

    Self-supervision, every part with a switch of its own:
    S1, clean pictures first and growing damage, is the data's: `curriculum` of `RestorationPairs`.
    S2, `alignment_weight`: features and latent of the damaged picture should be those that a running mean of the
    network (`teacher_decay`) finds in the true one; `latent_share` weighs the latent's part.
    S3, `agreement_weight`: two damaged views of a face should give one latent and one face; data with `views: 2`.
    S4, `unpaired_weight`, from `unpaired_from` on: a real bad picture, damaged again, should give what the picture
    itself gives now; data with `unpaired: true`.

    Weights and times are a reconstruction (the paper's are not public); they follow GFPGAN's released training.
    """

    def __init__(
        self,
        model: FRGP,
        *,
        prior: str = "",
        lr: float = 2e-3,
        prior_from: float = 0.2,
        prior_rate: float = 0.1,
        pyramid_until: float = 0.06,
        pyramid_weight: float = 1.0,
        perceptual: Perceptual = "face",
        perceptual_weight: float = 1.0,
        identity_weight: float = 0.5,
        gan_from: float = 0.0,
        gan_weight: float = 0.1,
        r1_weight: float = 10.0,
        r1_every: int = 16,
        discriminator_lr: float = 2e-3,
        discriminator_narrow: float | None = None,
        alignment_weight: float = 0.0,
        latent_share: float = 0.1,
        teacher_decay: float = 0.999,
        agreement_weight: float = 0.0,
        unpaired_weight: float = 0.0,
        unpaired_from: float = 0.7,
    ) -> None:
        if perceptual not in get_args(Perceptual):
            raise UsageError(f"perceptual {perceptual!r}: choose one of {', '.join(get_args(Perceptual))}")
        self.model: FRGP = model
        self.network = model  # `model` is wrapped while several processes train
        if prior:
            _load_prior(model, prior)
        self.prior = [p for p in model.generator.parameters() if p.requires_grad]
        c = model.config
        self.by_face = perceptual == "face" and perceptual_weight > 0
        self.face = _face_loss(c.size) if self.by_face or identity_weight else None
        self.judge = LPIPS.from_files("vgg") if perceptual == "lpips" and perceptual_weight else None
        self.discriminator = Discriminator(
            c.size,
            channel_multiplier=c.channel_multiplier,
            narrow=c.narrow if discriminator_narrow is None else discriminator_narrow,
        )
        self.mean_teacher = MeanTeacher(model, teacher_decay) if alignment_weight else None
        self.lr, self.discriminator_lr = lr, discriminator_lr
        self.prior_from, self.prior_rate = prior_from, prior_rate
        self.pyramid_until, self.pyramid_weight = pyramid_until, pyramid_weight
        self.perceptual_weight, self.identity_weight = perceptual_weight, identity_weight
        self.gan_from, self.gan_weight = gan_from, gan_weight
        self.r1_weight, self.r1_every = r1_weight, r1_every
        self.alignment_weight, self.latent_share = alignment_weight, latent_share
        self.agreement_weight = agreement_weight
        self.unpaired_weight, self.unpaired_from = unpaired_weight, unpaired_from

    def modules(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"model": self.model}
        if self.gan_weight:
            found["discriminator"] = self.discriminator
        if self.mean_teacher is not None:
            found["teacher"] = self.mean_teacher.network
        return found

    def optimisers(self) -> dict[str, Optimizer]:
        prior = {id(p) for p in self.network.generator.parameters()}
        codec = [p for p in self.network.parameters() if id(p) not in prior]
        groups: list[dict[str, Any]] = [{"params": codec}, {"params": self.prior, "lr": self.prior_rate * self.lr}]
        found: dict[str, Optimizer] = {"model": torch.optim.Adam(groups, self.lr, betas=_BETAS)}
        if self.gan_weight:
            found["discriminator"] = torch.optim.Adam(
                self.discriminator.parameters(), self.discriminator_lr, betas=(0.0, 0.99)
            )
        return found

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        for parameter in self.prior:
            parameter.requires_grad_(progress >= self.prior_from)
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"].float()
        restored, aux = self.model(low, return_aux=True)
        losses = self._reconstruction(restored, aux, high, mask, progress)
        adversarial = self.gan_weight > 0 and progress >= self.gan_from
        if adversarial:
            losses["gan"] = self.gan_weight * self._adversarial(restored, mask)
        losses |= self._self_supervision(batch, restored, aux, high, mask, progress)
        update("model", torch.stack(list(losses.values())).sum())
        if self.mean_teacher is not None:
            self.mean_teacher.update(self.network)
        logs: dict[str, float | Tensor] = {k: v.detach() for k, v in losses.items()}
        if adversarial:
            logs["d"] = self._discriminate(restored.detach(), high, mask, update)
        return logs

    def _reconstruction(
        self, restored: Tensor, aux: dict[str, Any], high: Tensor, mask: Tensor, progress: float
    ) -> dict[str, Tensor]:
        losses = {"l1": l1(restored, high, mask)}
        if progress < self.pyramid_until and "rgb_pyramid" in aux:
            losses["pyramid"] = self.pyramid_weight * pyramid_l1(aux["rgb_pyramid"], high, mask)
        shown = torch.where(mask > 0, restored, high)
        if self.face is not None:
            distance = self.face.to(high.device)(shown, high)
            losses["identity"] = self.identity_weight * distance.identity
            if self.by_face:
                losses["perceptual"] = self.perceptual_weight * distance.features
        if self.judge is not None:
            losses["perceptual"] = self.perceptual_weight * self.judge.to(high.device)(shown, high).mean()
        return losses

    def _self_supervision(
        self, batch: Batch, restored: Tensor, aux: dict[str, Any], high: Tensor, mask: Tensor, progress: float
    ) -> dict[str, Tensor]:
        losses = {}
        if self.mean_teacher is not None:
            losses["alignment"] = self.alignment_weight * self._alignment(aux, high)
        if self.agreement_weight:
            other, seen = self.model(signed(_wanted(batch, "lq_second", "views: 2")), return_aux=True)
            apart = latent_disagreement(aux["latent"], seen["latent"]) + l1(restored, other, mask)
            losses["agreement"] = self.agreement_weight * apart
        if self.unpaired_weight and progress >= self.unpaired_from:
            losses["unpaired"] = self.unpaired_weight * self._unpaired(batch)
        return losses

    def _alignment(self, aux: dict[str, Any], high: Tensor) -> Tensor:
        """S2: what the teacher sees in the true picture is what should be seen in the damaged one."""
        assert self.mean_teacher is not None
        with torch.no_grad():
            truth = self.mean_teacher.network.encode(high)
        latent = latent_alignment(aux["latent"], truth.latent)
        return feature_alignment(aux["features"], truth.features) + self.latent_share * latent

    def _unpaired(self, batch: Batch) -> Tensor:
        """S4: the restored real picture is the target of the same picture damaged once more."""
        real, worse = (signed(_wanted(batch, key, "unpaired: true")) for key in ("real", "real_worse"))
        with torch.no_grad():
            pseudo_target = self.network(real)
        return l1(self.model(worse), pseudo_target, batch["real_mask"].float())

    def _adversarial(self, restored: Tensor, mask: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        loss = softplus_generator(self.discriminator(restored * mask).float())
        self.discriminator.requires_grad_(True)
        return loss

    def _discriminate(self, restored: Tensor, high: Tensor, mask: Tensor, update: Update) -> Tensor:
        real = high * mask
        loss = softplus_discriminator(self.discriminator(real).float(), self.discriminator(restored * mask).float())
        if float(torch.rand(())) < 1 / self.r1_every:  # drawn, so that a resumed run needs to remember no counter
            with torch.autocast(real.device.type, enabled=False):
                asked = real.detach().requires_grad_()
                penalty = r1_penalty(self.discriminator(asked), asked)
            loss = loss + 0.5 * self.r1_weight * self.r1_every * penalty
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"]
        return {
            "psnr": _psnr(self.network(low), high, mask),
            "psnr_input": _psnr(low, high, mask),
            "psnr_clean": _psnr(self.network(high), high, mask),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        return _sheet(self.network, batch)


def _load_prior(model: FRGP, source: str) -> None:
    if Path(source).is_file():
        model.load_prior(load_published(source))
        return
    from ...synthesise.stylegan2.network import StyleGAN2

    model.adopt_prior(StyleGAN2.from_pretrained(source).generator)


def _wanted(batch: Batch, key: str, option: str) -> Tensor:
    if key not in batch:
        raise UsageError(f"this training needs {key!r} in its batches; give the recipe's data the option {option!r}")
    return batch[key]


def _face_loss(size: int) -> FaceLoss:
    from ...recognise.distilledface.network import DistilledFace

    return FaceLoss(DistilledFace.from_pretrained(), size)


def _sheet(model: FRGP, batch: Batch) -> NDArray[np.uint8]:
    """Up to eight faces: damaged, restored, restored at half the fidelity, true."""
    count = min(8, len(batch["lq"]))
    low, high = batch["lq"][:count].cpu().numpy(), batch["hq"][:count].cpu().numpy()
    rows = [low, model.restore(low), model.restore(low, fidelity=0.5), high]
    sheet = np.vstack([np.hstack(list(row)) for row in rows])
    return np.asarray(cv2.resize(sheet, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), np.uint8)


def _valid(logits: Tensor, mask: Tensor) -> Tensor:
    """The logits of patches that lie in the photo."""
    return logits[whole_cells(mask, logits.shape[-2:]) > 0]


def _psnr(a: Tensor, b: Tensor, mask: Tensor) -> float:
    error = ((a.float().clamp(-1, 1) - b) * 127.5) ** 2 * mask
    mse = error.sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return float((10 * torch.log10(255**2 / mse.clamp(min=1e-3))).mean())
