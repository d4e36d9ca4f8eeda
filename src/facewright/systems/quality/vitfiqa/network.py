"""ViT-FIQA: recognition utility of a face from one learnable token of a vision transformer.

Paper: Atzori, Boutros, Damer, "ViT-FIQA: Assessing Face Image Quality using Vision Transformers" (ICCV Workshops 2025,
arXiv 2508.13957). A quality token travels with the patches through the transformer of a face recogniser; a small head
regresses from it how certainly the recogniser classifies the picture. The losses are in `vitfiqa_training`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....face import FaceQuality
from ....geometry.crop import CropSpec
from ....nn.face_vit import FaceViT
from ....tasks.card import Preprocess
from ...base import System
from ..reasons import QUANTILES, find_reasons, percentiles, reference_quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

Mode = Literal["token", "crfiqa", "full"]

_HEADS = 8  # of all published networks; the weights do not tell
_NORM_EPS = 2e-5
_INIT_STD = 0.02
_TOKEN_INIT_STD = 1e-6
_BATCH = 64


@dataclass(frozen=True, slots=True)
class ViTFIQAConfig:
    """Shape of the network; the defaults are the published ViT-S (76.0 M parameters).

    size, patch: side of the crop and of a patch in pixels; pixels beyond the last whole patch are not seen.
    dim, depth, heads: of the transformer. embedding: width of the identity embedding.
    head_width: 0 for whole patch tokens in front of the embedding, else the width each is first reduced to.
    mode: `token` regresses quality from the quality token; `crfiqa` has no such token and regresses it from the
        embedding (CR-FIQA on a transformer); `full` does the same, with the token as one more patch of the embedding.
    drop_path: stochastic depth of the last block. mask_ratio: share of tokens hidden during training.
    """

    size: int = 112
    patch: int = 9
    dim: int = 512
    depth: int = 12
    heads: int = _HEADS
    embedding: int = 512
    head_width: int = 0
    mode: Mode = "token"
    drop_path: float = 0.1
    mask_ratio: float = 0.1

    @classmethod
    def compact(cls) -> Self:
        """Under 2 MB in half precision: 64 patches, four narrow blocks, a reduced embedding head."""
        return cls(patch=14, dim=128, depth=4, heads=4, embedding=128, head_width=12)

    @property
    def patches(self) -> int:
        return (self.size // self.patch) ** 2


class ViTFIQA(System):
    """Recognition utility and identity embedding of an aligned face (arXiv 2508.13957).

    forward: (N, 3, S, S) RGB in [−1, 1], aligned by the `arcface` template, to the identity embedding (N, E), not
    normalised, and the quality (N,): unbounded, higher is better, comparable only within one set of weights.
    `reference` holds 101 quantiles of the quality on a reference set, in millionths, once `calibrate` has set them.
    """

    slug: ClassVar[str] = "vitfiqa"
    Config: ClassVar[type[ViTFIQAConfig]] = ViTFIQAConfig
    config: ViTFIQAConfig
    reference: Tensor

    def __init__(self, config: ViTFIQAConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        _check(c)
        token = c.mode != "crfiqa"
        self.quality_token = nn.Parameter(_TOKEN_INIT_STD * torch.randn(1, 1, c.dim)) if token else None
        self.vit = FaceViT(
            c.embedding,
            width=c.dim,
            depth=c.depth,
            heads=c.heads,
            size=c.size,
            patch=c.patch,
            prefix=int(token),
            drop_path=c.drop_path,
            mask_ratio=c.mask_ratio,
        )
        self.reduce = _linear(c.dim, c.head_width) if c.head_width else nn.Identity()
        flat = (c.patches + (c.mode == "full")) * (c.head_width or c.dim)
        if flat != c.patches * c.dim:
            self.vit.head[0] = _linear(flat, c.dim)
        seen = c.dim if c.mode == "token" else c.embedding
        self.quality = nn.Sequential(nn.BatchNorm1d(seen, _NORM_EPS), _linear(seen, 1))
        self.register_buffer("reference", torch.zeros(QUANTILES, dtype=torch.int32))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size, "arcface"))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encode(image)
        mode = self.config.mode
        seen = tokens[:, 1:] if mode == "token" else tokens
        embedding: Tensor = self.vit.head(self.reduce(seen).flatten(1))
        quality: Tensor = self.quality(tokens[:, 0] if mode == "token" else embedding)
        return embedding, quality.squeeze(1)

    def encode(self, image: Tensor) -> Tensor:
        """(N, 3, S, S) to all tokens after the last norm (N, T, dim); the quality token, where there is one, first."""
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this ViT-FIQA takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        prefix = None if self.quality_token is None else self.quality_token.expand(len(image), -1, -1)
        return self.vit.trunk(self.vit.tokens(image, prefix))

    # Use on pictures

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to raw quality (N,); only its order means something, within these weights."""
        return self.evaluate(crops)[1]

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to identity embeddings (N, E) of unit length."""
        embeddings = self.evaluate(crops)[0]
        return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)

    @torch.inference_mode()
    def evaluate(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, S, S, 3) uint8 RGB crops to embeddings (N, E) as the network gives them, and raw quality (N,).

        In full precision: half of it would change the order of pictures of nearly the same quality.
        """
        if len(crops) == 0:
            return np.zeros((0, self.config.embedding), np.float32), np.zeros(0, np.float32)
        outputs = [self(self.normalise(crops[i : i + _BATCH])) for i in range(0, len(crops), _BATCH)]
        embeddings, qualities = (torch.cat(parts).float().cpu().numpy() for parts in zip(*outputs))
        return embeddings, qualities

    def rate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceQuality]:
        """Score, percentile and reasons for low quality of each face found in an (H, W, 3) uint8 RGB photo.

        Raises UsageError when the weights were never calibrated.
        """
        crops = [self.preprocess.crop.cut(photo, face) for face in faces]
        if not crops:
            return []
        scores = self.score(np.stack([crop.image for crop in crops]))
        ranks = percentiles(scores, self.reference.cpu().numpy())
        return [
            FaceQuality(float(score), float(rank), tuple(find_reasons(crop, face)))
            for score, rank, crop, face in zip(scores, ranks, crops, faces)
        ]

    def calibrate(self, scores: NDArray[np.floating]) -> None:
        """Take raw scores (N,) of a reference set as the scale of percentiles; saved with the weights."""
        self.reference.copy_(torch.from_numpy(reference_quantiles(scores)))


def _linear(features: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(features, outputs, bias=False)
    nn.init.trunc_normal_(layer.weight, std=_INIT_STD)
    return layer


def _check(c: ViTFIQAConfig) -> None:
    if c.mode not in get_args(Mode):
        raise UsageError(f"mode {c.mode!r} of ViT-FIQA: choose one of {', '.join(get_args(Mode))}")
    if c.dim % c.heads:
        raise UsageError(f"{c.heads} heads do not divide the {c.dim} channels of ViT-FIQA")
    if not 0 < c.patch <= c.size:
        raise UsageError(f"patches of {c.patch} px do not fit crops of {c.size} px")
    if not 0 <= c.mask_ratio < 1:
        raise UsageError(f"mask_ratio {c.mask_ratio} is outside 0…1")
