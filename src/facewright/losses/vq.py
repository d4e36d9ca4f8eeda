"""How much of a codebook is used, and the adaptive adversarial weight; the quantisation error is `nn.vq.vq_loss`.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021, equation 7 for the
adaptive weight).
"""

from __future__ import annotations

import torch
from torch import Tensor

_WEIGHT_EPS = 1e-4
_WEIGHT_LIMIT = 1e4


def perplexity(indices: Tensor, codes: int) -> Tensor:
    """exp of the entropy of how often each of `codes` entries is chosen: 1 when one is, `codes` when all are equally.

    `indices`: integers of any shape. A scalar.
    """
    share = torch.bincount(indices.flatten(), minlength=codes).float() / indices.numel()
    return torch.exp(torch.special.entr(share).sum())


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, *, strength: float = 0.8
) -> Tensor:
    """`strength` · ‖∂reconstruction/∂w‖ / (‖∂adversarial/∂w‖ + 1e-4), the ratio at most 1e4; a constant scalar.

    `last_layer` is the weight of the generator's last convolution: there both losses pull equally, times `strength`.
    Both losses must still have their graph, and keep it.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (pulled,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = torch.linalg.vector_norm(wanted.float()) / (torch.linalg.vector_norm(pulled.float()) + _WEIGHT_EPS)
    return strength * ratio.clamp(max=_WEIGHT_LIMIT).detach()
