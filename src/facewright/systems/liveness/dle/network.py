"""DLE: frames a second apart, three recurrent networks, and a fourth that learns from what they say.

Paper: Muhammad, Hoque, Oussalah, Laaksonen, "Deep Ensemble Learning with Frame Skipping for Face Anti-Spoofing"
(IPTA 2023, arXiv 2307.02858); details as in the published scripts (Usman1021/DLE, MATLAB). Of every clip of 30 frames
one is kept; whole frames, not faces, are described by a frozen DenseNet-201. A bidirectional LSTM, a GRU and an LSTM
classify every kept frame; the sum of their softmax outputs is what a last small LSTM sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.resnet import DenseNet
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

Pick = Literal["last", "first", "middle"]

CLIP_LENGTH = 30
"""Frames of a clip, of which one is kept: about a second at 25 to 30 frames a second."""
ATTACK, LIVE = 0, 1

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def kept_frames(count: int, clip: int = CLIP_LENGTH, pick: Pick = "last") -> NDArray[np.int64]:
    """Which of `count` frames are kept: one of every whole clip, the middle frame of a video shorter than one.

    The published script keeps the last frame of each clip, its description says the first.
    """
    if pick not in get_args(Pick):
        raise UsageError(f"frame {pick!r} of a clip: choose one of {', '.join(get_args(Pick))}")
    if count < 1 or clip < 1:
        raise UsageError(f"there is nothing to keep of {count} frames in clips of {clip}")
    if count < clip:
        return np.array([count // 2])
    return np.arange(count // clip) * clip + {"first": 0, "middle": clip // 2, "last": clip - 1}[pick]


@dataclass(frozen=True)
class DLEConfig:
    """size: to which whole frames are scaled. blocks, growth, width: of the DenseNet; the defaults are DenseNet-201.

    bilstm, gru, lstm, meta: hidden units, of the first in each direction.
    """

    size: int = 224
    blocks: tuple[int, ...] = (6, 12, 48, 32)
    growth: int = 32
    width: int = 64
    bilstm: int = 500
    gru: int = 20
    lstm: int = 1000
    meta: int = 20

    @classmethod
    def compact(cls) -> Self:
        """A shallow DenseNet and few units, for a processor."""
        return cls(size=64, blocks=(2, 2, 2, 2), growth=8, width=16, bilstm=16, gru=8, lstm=24, meta=8)


class Recurrent(nn.Module):
    """Sequences (N, T, F) to logits of every step (N, T, 2); the hidden state starts from 0 in every sequence.

    MATLAB's layers have one bias where PyTorch's have two; the second is 0 and stays so.
    """

    def __init__(self, rnn: nn.RNNBase, *, he: bool) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 2)
        for name, weight in rnn.named_parameters():
            if name.startswith("bias_hh"):
                nn.init.zeros_(weight)
                weight.requires_grad_(False)
            elif he and name.startswith("weight_hh"):
                nn.init.kaiming_normal_(weight)
        if he:
            nn.init.kaiming_normal_(self.head.weight)

    def forward(self, sequence: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(sequence)[0])
        return logits


class DLE(System):
    """Liveness of a video by frames a second apart (arXiv 2307.02858).

    forward: kept frames (N, T, 3, S, S) RGB, ImageNet's mean and deviation, or single pictures (N, 3, S, S), to logits
    (N, T, 2) of the last network: attack, live. One sequence is one video: the published scripts run all videos, sorted
    by class, as one sequence, so that the hidden state carries the class from one to the next.
    """

    slug: ClassVar[str] = "dle"
    Config: ClassVar[type[DLEConfig]] = DLEConfig
    config: DLEConfig

    def __init__(self, config: DLEConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.features = DenseNet(c.blocks, growth=c.growth, width=c.width).eval()
        self.features.requires_grad_(False)
        dim = self.features.out_features
        self.bilstm = Recurrent(nn.LSTM(dim, c.bilstm, batch_first=True, bidirectional=True), he=True)
        self.gru = Recurrent(nn.GRU(dim, c.gru, batch_first=True), he=True)
        self.lstm = Recurrent(nn.LSTM(dim, c.lstm, batch_first=True), he=False)
        self.meta = Recurrent(nn.LSTM(2, c.meta, batch_first=True), he=False)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(config.size), mean=_MEAN, std=_STD)

    @property
    def learners(self) -> tuple[Recurrent, Recurrent, Recurrent]:
        """The three networks on features."""
        return self.bilstm, self.gru, self.lstm

    def train(self, mode: bool = True) -> Self:
        """As of every module, but the frozen features keep the running statistics of their norms."""
        super().train(mode)
        self.features.eval()
        return self

    def describe_frames(self, frames: Tensor) -> Tensor:
        """(N, T, 3, S, S) to features (N, T, F), without gradient."""
        with torch.no_grad():
            flat: Tensor = self.features(frames.flatten(0, 1))
        return flat.view(*frames.shape[:2], -1)

    def votes(self, features: Tensor) -> Tensor:
        """Sum of the three softmax outputs (N, T, 2), without gradient: what the last network sees."""
        with torch.no_grad():
            return torch.stack([learner(features).softmax(-1) for learner in self.learners]).sum(0)

    def forward(self, frames: Tensor, *, return_aux: bool = False) -> Tensor | dict[str, Tensor]:
        side = self.config.size
        sequences = frames if frames.dim() == 5 else frames[:, None]
        if sequences.dim() != 5 or tuple(sequences.shape[2:]) != (3, side, side):
            raise UsageError(f"this DLE takes frames (N, T, 3, {side}, {side}), not {tuple(frames.shape)}")
        features = self.describe_frames(sequences)
        logits: Tensor = self.meta(self.votes(features))
        if not return_aux:
            return logits
        names = ("bilstm", "gru", "lstm")
        return {"logits": logits} | {name: learner(features) for name, learner in zip(names, self.learners)}

    @torch.inference_mode()
    def live_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Kept frames (H, W, 3) uint8 RGB of one video to votes (T,), 0…1, that somebody is there at each."""
        side = self.config.size
        small = [_scaled(frame, side) for frame in frames]
        logits = self(self.normalise(np.stack(small))[None])[0]
        return np.asarray(logits.softmax(-1)[:, LIVE].double().cpu().numpy())

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the vote of the whole photo as a video of one frame, N times."""
        return np.repeat(self.live_video([photo]), len(faces))


def _scaled(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A frame as a square, whatever its proportions; low-passed where it shrinks."""
    shrinks = min(frame.shape[:2]) > side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(frame, (side, side), interpolation=method), np.uint8)
