"""How IADG is trained: class and depth of faces in their own and in other styles; what styles change is whitened.

Masks of what is whitened and the base styles are made anew at the start of every epoch (`IADGTraining.refresh`): from
all training batches, or with `epoch` from those of the epoch before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.optim import Optimizer

    from .network import IADG, StyleAssembly

DEPTH_WEIGHT = 0.1
SHARES = (0.003, 0.0006)
"""Of all entries of the covariance that are whitened, for live faces and for attacks."""
_LOSS_EPS, _MASK_EPS = 1e-5, 1e-7


def covariances(features: Tensor, eps: float = _LOSS_EPS) -> Tensor:
    """(N, C, H, W) to F·Fᵀ / (HW − 1) + eps·I of every picture, (N, C, C); the features are not centred."""
    flat = features.flatten(2)
    identity = torch.eye(flat.shape[1], device=flat.device, dtype=flat.dtype)
    return flat @ flat.transpose(1, 2) / (flat.shape[2] - 1) + eps * identity


def style_variance(plain: Tensor, shaded: Tensor) -> Tensor:
    """How much every entry of the covariance (C, C) above the diagonal varies over the pictures in both styles."""
    both = torch.cat([covariances(plain, _MASK_EPS), covariances(shaded, _MASK_EPS)])
    return both.var(0).triu(1)


def sensitive(variance: Tensor, share: float) -> Tensor:
    """Mask (C, C) of the `share` of all entries that vary most."""
    count = int(share * variance.numel())
    mask = torch.zeros(variance.numel(), dtype=torch.bool, device=variance.device)
    mask[variance.flatten().topk(count).indices] = True
    return mask.view_as(variance)


def whitening(features: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
    """Mean size of the masked covariances: of the live first half of (N, C, H, W), and of the attacks, averaged."""
    live, attacks = features.chunk(2)
    losses = [
        (covariances(half).abs() * mask).sum((1, 2)).mean() / mask.sum() for half, mask in zip((live, attacks), masks)
    ]
    return (losses[0] + losses[1]) / 2


def farthest(points: Tensor, count: int) -> Tensor:
    """Indices of `count` of the points (N, D), each the farthest from those before it; the first is the first point.

    Where there are fewer points they come again.
    """
    chosen = [0]
    distance = (points - points[0]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


def choose_styles(assemblies: Sequence[StyleAssembly], features: Tensor, attack: Tensor) -> None:
    """Take base styles from features (N, C, H, W) of both classes, as far from each other as there are.

    Raises UsageError when a class is missing.
    """
    variance, mean = torch.var_mean(features, (2, 3))
    std = (variance + 1e-5).sqrt()
    for name, chosen in (("live", ~attack.bool()), ("attack", attack.bool())):
        if not bool(chosen.any()):
            raise UsageError(f"base styles are taken from both classes; there is no {name} face")
        index = farthest(torch.cat([mean[chosen], std[chosen]], 1), len(assemblies[0].get_buffer(f"{name}_mean")))
        for assembly in assemblies:
            assembly.get_buffer(f"{name}_mean").copy_(mean[chosen][index])
            assembly.get_buffer(f"{name}_std").copy_(std[chosen][index])


class IADGTraining(Training):
    """Batches hold `image` (N, S, S, 3) uint8 RGB, `attack` (N,) of 0 and 1 with the live half first, and `depth`
    (N, S/8, S/8) in [0, 1], 0 everywhere for attacks.

    Until `refresh` was called faces are only seen in their own style, as in the paper's first epoch. epoch: steps after
    which it is called with the batches since the last time; 0 leaves that to the caller. A run that is resumed begins
    with such an epoch.
    """

    def __init__(self, model: IADG, *, lr: float = 1e-4, weight_decay: float = 1e-5, epoch: int = 0) -> None:
        self.model: IADG = model
        if epoch < 0:
            raise UsageError(f"an epoch of IADG's training cannot have {epoch} steps")
        if model.shader is None:
            raise UsageError("IADG is trained with a shader; give a number of base styles in the configuration")
        self.shader = model.shader
        self.lr, self.weight_decay, self.epoch = lr, weight_decay, epoch
        self.masks: tuple[Tensor, Tensor] | None = None
        self.seen: list[Batch] = []

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.Adam(self.model.parameters(), self.lr, weight_decay=self.weight_decay)}

    @torch.no_grad()
    def refresh(self, batches: Iterable[Batch]) -> None:
        """Choose base styles and masks from the training batches: at the start of every epoch but the first."""
        self.model.eval()
        seen = [(self.model.features(signed(batch["image"])), batch["attack"]) for batch in batches]
        features, attack = torch.cat([f for f, _ in seen]), torch.cat([a for _, a in seen])
        choose_styles(list(self.shader.assemblies), features, attack)  # type: ignore[arg-type]
        sums: list[Tensor] = [torch.zeros(()), torch.zeros(())]
        for part, kinds in seen:
            shaded = self.shader(part, kinds, self.shader.draw(len(part)))
            plain = self.shader.last(part)
            for i, (p, s) in enumerate(zip(plain.chunk(2), shaded.chunk(2))):
                sums[i] = sums[i] + style_variance(p, s) / len(seen)
        self.masks = (sensitive(sums[0], SHARES[0]), sensitive(sums[1], SHARES[1]))

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        attack, depth = batch["attack"].long(), batch["depth"].float()[:, None]
        half = len(attack) // 2
        if bool(attack[:half].any()) or not bool(attack[half:].all()) or len(attack) % 2:
            raise UsageError("IADG's batches are live faces first, then as many attacks")
        if self.epoch:
            self._remember(batch)
        features = self.model.features(signed(batch["image"]))
        told = self._told(features, attack, depth)
        if self.masks is None:
            update("model", told)
            return {"told": told.detach()}
        shaded = self.shader(features, attack, self.shader.draw(len(attack)))
        again = self._told(shaded, attack, depth)
        white = whitening(self.shader.last(features), self.masks) + whitening(shaded, self.masks)
        update("model", told + again + white)
        return {"told": told.detach(), "shaded": again.detach(), "whitening": white.detach()}

    def _remember(self, batch: Batch) -> None:
        """Keep a batch until the epoch is over; then refresh from those that were kept."""
        if len(self.seen) == self.epoch:
            self.refresh(self.seen)
            self.model.train()
            self.seen = []
        self.seen.append({name: batch[name] for name in ("image", "attack")})

    def _told(self, features: Tensor, attack: Tensor, depth: Tensor) -> Tensor:
        wrong = F.cross_entropy(self.model.classify(features).float(), attack)
        return wrong + DEPTH_WEIGHT * F.mse_loss(self.model.depth(features).float(), depth)

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pictures told right."""
        logits = self.model(signed(batch["image"]))
        return {"right": float((logits.argmax(1) == batch["attack"].long()).float().mean())}
