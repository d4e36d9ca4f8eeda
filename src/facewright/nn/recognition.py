"""Backbones of face recognition by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..errors import UsageError
from .evolve import IRNet
from .face_vit import FaceViT
from .iresnet import IRESNET_BLOCKS, IResNet, iresnet
from .mobilefacenet import mbf, mbf_large, mobilefacenet

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

# Called with the embedding's width as `dim`.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(iresnet, name) for name in IRESNET_BLOCKS},
    "iresnet_thin": partial(IResNet, (1, 1, 1, 1), widths=(16, 32, 64, 128), patch=2, pooling="depthwise"),
    "mobilefacenet": mobilefacenet,
    "mbf": mbf,
    "mbf_large": mbf_large,
    "sface_ir50": partial(IRNet, 50, tface=False),
    "sface_ir101": partial(IRNet, 101, tface=False),
    "ir18": partial(IRNet, 18),
    "ir34": partial(IRNet, 34),
    "ir50": partial(IRNet, 50),
    "ir101": partial(IRNet, 101),
    "ir_se50": partial(IRNet, 50, tface=False, squeeze=True),
    "vit_t": partial(FaceViT, width=256),
    "vit_s": FaceViT,
    "vit_b": partial(FaceViT, depth=24),
    "vit_l": partial(FaceViT, width=768, depth=24, drop_path=0.05, mask_ratio=0.05),
}


def create_backbone(name: str, dim: int = 512) -> nn.Module:
    """A backbone with fresh weights: (N, 3, 112, 112) to (N, dim) embeddings that are not normalised.

    `iresnet…`, `mbf…` and `vit_…` are insightface's, `sface_ir…` and `mobilefacenet` those of SFace, `ir18` to `ir101`
    those of TFace and AdaFace, `ir_se50` that of InsightFace_Pytorch, which many identity losses use. `iresnet_thin` of
    0.3 M parameters is for training on a processor. Raises UsageError naming them all when there is no such name.
    """
    if name not in BACKBONES:
        raise UsageError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name](dim=dim)
