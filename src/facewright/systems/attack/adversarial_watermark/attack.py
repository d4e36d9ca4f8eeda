"""A change of a photo that sleeps until a watermarking service marks it, and how the service can notice.

Somebody changes a photo by at most ε per pixel. As it is, the recogniser still finds the person (stealth). Once the
service has hidden its message in it, the recogniser does not (evasion). The objective is this project's formulation of
the paper's threat model; its own equations could not be read. Pictures are RGB in [0, 1] throughout.

This is a robustness audit of recognisers: it needs the network itself, and runs on pictures that are at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ....errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from .network import Hidden

    Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class PgdOptions:
    """How the change is looked for, by projected gradient descent.

    epsilon: largest change of a value in [0, 1]. steps, step: how many, and how long in shares of epsilon.
    stealth: weight of staying recognisable before the mark; 0 gives an ordinary adversarial example.
    messages: how many random messages each step averages over when the message is not known.
    readable: weight of keeping the message readable, so that the service notices nothing.
    """

    epsilon: float = 4 / 255
    steps: int = 40
    step: float = 0.25
    stealth: float = 1.0
    messages: int = 4
    readable: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1 or self.steps < 1 or not self.step > 0 or self.messages < 1:
            raise UsageError(f"these options describe no attack: {self}")


def marked(hidden: Hidden, image: Tensor, message: Tensor, *, rounded: bool = False) -> Tensor:
    """What the service makes of a picture (N, 3, H, W) in [0, 1], clamped; `rounded` to 8 bits as it is stored."""
    out = ((hidden.encoder(2 * image - 1, message) + 1) / 2).clamp(0, 1)
    return to_8_bits(out) if rounded else out


def to_8_bits(image: Tensor) -> Tensor:
    """The nearest of 256 levels."""
    return (image * 255).round() / 255


def objective(
    image: Tensor,
    delta: Tensor,
    reference: Tensor,
    messages: Tensor,
    hidden: Hidden,
    embed: Embed,
    options: PgdOptions,
) -> Tensor:
    """(N,) what the attacker makes small: similarity to the reference after the mark, less that before it.

    `messages` (K, N, L); the first term is their mean. `reference` (N, D) embeddings of the person.
    """
    changed = image + delta
    before = F.cosine_similarity(embed(changed), reference)
    after = torch.zeros_like(before)
    unread = torch.zeros_like(before)
    for message in messages:
        shown = marked(hidden, changed, message)
        after = after + F.cosine_similarity(embed(shown), reference) / len(messages)
        if options.readable:
            bits = hidden.decoder(2 * shown - 1)
            unread = unread + F.mse_loss(bits, message, reduction="none").mean(1) / len(messages)
    return after - options.stealth * before + options.readable * unread


def perturb(
    image: Tensor,
    reference: Tensor,
    hidden: Hidden,
    embed: Embed,
    *,
    message: Tensor | None = None,
    options: PgdOptions | None = None,
    seed: int = 0,
) -> Tensor:
    """The change δ (N, 3, H, W), |δ| ≤ ε and image + δ in [0, 1].

    `message` (N, L) is the one the service will hide, the strong setting; without it the attacker draws some in every
    step. Networks must be in evaluation mode: with batch statistics the attack would look stronger than it is.
    """
    chosen = options or PgdOptions()
    if hidden.training:
        raise UsageError("the watermarking network is in training mode; call eval() first")
    random = torch.Generator().manual_seed(seed)
    delta = (torch.rand(image.shape, generator=random).to(image) * 2 - 1) * chosen.epsilon
    delta = _projected(image, delta, chosen.epsilon)
    for _ in range(chosen.steps):
        delta = delta.detach().requires_grad_()
        if message is None:
            shape = (chosen.messages, len(image), hidden.config.bits)
            messages = torch.randint(0, 2, shape, generator=random).to(image)
        else:
            messages = message[None].to(image)
        with torch.enable_grad():
            loss = objective(image, delta, reference, messages, hidden, embed, chosen).sum()
            (gradient,) = torch.autograd.grad(loss, delta)
        delta = _projected(image, delta - chosen.step * chosen.epsilon * gradient.sign(), chosen.epsilon)
    return delta.detach()


def _projected(image: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    return (image + delta.clamp(-epsilon, epsilon)).clamp(0, 1) - image


# --- what it does, and the defence ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """Similarity (N,) of probes to their references: as they are, changed, marked, and changed then marked.

    `consistency_honest` and `consistency_attacked` (N,): similarity of a picture before and after the mark, which the
    service can compute. `bits`: share of the message that can still be read from the attacked pictures. `psnr`: of the
    change, in dB. All pictures were rounded to 8 bits.
    """

    clean: NDArray[np.float64]
    changed: NDArray[np.float64]
    marked: NDArray[np.float64]
    both: NDArray[np.float64]
    consistency_honest: NDArray[np.float64]
    consistency_attacked: NDArray[np.float64]
    bits: float
    psnr: float


@torch.no_grad()
def compare(image: Tensor, delta: Tensor, gallery: Tensor, message: Tensor, hidden: Hidden, embed: Embed) -> Conditions:
    """The four conditions against the embeddings (N, D) of *other* pictures of the same people."""
    changed = to_8_bits(image + delta)
    honest, attacked = (marked(hidden, each, message, rounded=True) for each in (image, changed))
    seen = [embed(each) for each in (image, changed, honest, attacked)]
    clean, touched, only_marked, both = (_numbers(F.cosine_similarity(each, gallery)) for each in seen)
    read = hidden.decoder(2 * attacked - 1).round().clamp(0, 1)
    error = float(F.mse_loss(changed, image))
    return Conditions(
        clean,
        touched,
        only_marked,
        both,
        _numbers(F.cosine_similarity(seen[0], seen[2])),
        _numbers(F.cosine_similarity(seen[1], seen[3])),
        float((read == message).float().mean()),
        float(-10 * np.log10(max(error, 1e-10))),
    )


def alarm_threshold(honest: ArrayLike, false_alarms: float = 0.01) -> float:
    """κ: at most that share of honest pictures has a lower similarity before and after the mark."""
    return float(np.quantile(np.asarray(honest, np.float64), false_alarms, method="lower"))


def alarmed(consistency: ArrayLike, kappa: float) -> NDArray[np.bool_]:
    """Which pictures the service should refuse: the mark changed whom they show."""
    return np.asarray(consistency, np.float64) < kappa


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
