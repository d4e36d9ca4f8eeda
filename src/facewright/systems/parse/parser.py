"""What face parsers have in common: pictures in, labels or probabilities out, fast, and better with a mirrored look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ...nn.inference import folded_copy
from ..base import System
from .taxonomy import mirrored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ...face import Face


class FaceParser(System):
    """Base of parsing systems whose `net` maps normalised pictures (N, 3, H, W) to logits of the same size."""

    net: nn.Module

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        raise NotImplementedError(f"{type(self).__name__} must name its classes")

    @property
    def aligns_by_landmarks(self) -> bool:
        """Whether the network wants the five landmarks of every face."""
        return False

    def parse(
        self, crops: NDArray[np.uint8], *, flip: bool = False, faces: Sequence[Face] | None = None
    ) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 RGB crops to (N, H, W) uint8 labels that index `classes`.

        `flip` also looks at the mirrored crops and averages, at twice the time. `faces`, in pixels of the crops, are
        for networks that align by landmarks themselves. Raises UsageError for other shapes, and where such a network
        gets no faces.
        """
        return self._each(crops, flip, faces, lambda scores: scores.argmax(0).to(torch.uint8))

    def probabilities(
        self, crops: NDArray[np.uint8], *, flip: bool = False, faces: Sequence[Face] | None = None
    ) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB crops to (N, C, H, W) float32 probabilities that sum to 1 over the classes.

        `flip`, `faces` and errors as in `parse`.
        """
        return self._each(crops, flip, faces, lambda scores: _over_classes(scores) if not flip else scores)

    @torch.inference_mode()
    def _each(
        self,
        crops: NDArray[np.uint8],
        flip: bool,
        faces: Sequence[Face] | None,
        finish: Callable[[Tensor], Tensor],
    ) -> NDArray[Any]:
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise UsageError(f"{self.slug} parses uint8 crops (N, H, W, 3), not {crops.dtype} {crops.shape}")
        if faces is not None and len(faces) != len(crops):
            raise UsageError(f"{len(crops)} crops need as many faces, not {len(faces)}")
        if not len(crops):  # the shape and type that a crop would have given
            empty = finish(torch.zeros(len(self.classes), *crops.shape[1:3])).numpy()
            return np.zeros((0, *empty.shape), empty.dtype)
        wanted = self.aligns_by_landmarks and faces is not None
        marks = [np.asarray(face.points5, np.float64) for face in faces or ()] if wanted else [None] * len(crops)
        return np.stack([finish(self._scores(crop, mark, flip)).cpu().numpy() for crop, mark in zip(crops, marks)])

    def _scores(self, crop: NDArray[np.uint8], points: NDArray[np.floating[Any]] | None, flip: bool) -> Tensor:
        """(C, H, W) float32 logits of one crop at its own size; with `flip` probabilities, for only those average."""
        scores = self._look(crop, points)
        if not flip:
            return scores
        marks = None
        if points is not None:
            marks = points[[1, 0, 2, 4, 3]] * [-1, 1] + [crop.shape[1] - 1, 0]
        other = self._look(np.ascontiguousarray(crop[:, ::-1]), marks).flip(2)[mirrored(self.classes)]
        return (_over_classes(scores) + _over_classes(other)) / 2

    def _look(self, crop: NDArray[np.uint8], points: NDArray[np.floating[Any]] | None) -> Tensor:
        dtype = self.picture_dtype
        network = self.inference(dtype)
        fitted = self.fit(crop)
        marks = None
        if points is not None:
            scale = np.array(fitted.shape[1::-1]) / crop.shape[1::-1]
            marks = torch.from_numpy((points + 0.5) * scale - 0.5)[None].to(self.device, torch.float32)
        return self._at_size(self._logits(network, self.normalise(fitted[None]).to(dtype), marks), crop)

    def _logits(self, network: nn.Module, image: Tensor, points: Tensor | None) -> Tensor:
        """The logits of the network, or of its copy for inference."""
        if points is not None:
            raise UsageError(f"{self.slug} takes no points")
        logits: Tensor = network(image)
        return logits

    def _at_size(self, logits: Tensor, crop: NDArray[np.uint8]) -> Tensor:
        size = crop.shape[:2]
        logits = logits.float()
        if tuple(logits.shape[2:]) != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits[0]

    def fit(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A crop (H, W, 3) at the size the network wants."""
        return resized(crop, self.preprocess.size, self.preprocess.size)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return folded_copy(self.net, dtype)


def _over_classes(logits: Tensor) -> Tensor:
    """Softmax of (C, H, W); along memory, where it takes a third of the time."""
    return logits.contiguous().softmax(0)


def resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An (H, W, 3) picture at another size: averaged where it shrinks, bicubic where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
