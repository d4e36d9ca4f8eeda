"""What the rooms of this package hand to each other and to their callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ...errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

TARGET_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)

Deinterlace = Literal["auto", "frame", "field", "off"]
DEINTERLACE: tuple[Deinterlace, ...] = ("auto", "frame", "field", "off")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file says about itself.

    `width` and `height` are upright, after `rotation` (the clockwise turn in degrees that the stored picture needs).
    `frames` is the container's count or an estimate, None when unknown; `duration` is in seconds (0 when unknown) and
    `fps` the average rate. The colour entries are the codes of ITU-T H.273 (2 means unspecified). `scan` is
    "progressive", "interlaced" or "telecined", judged by the flags and the pictures of some stretches of the video.
    """

    width: int
    height: int
    rotation: int
    frames: int | None
    duration: float
    fps: float
    variable_rate: bool
    pix_fmt: str
    full_range: bool
    colour_space: int
    primaries: int
    transfer: int
    codec: str
    audio_streams: int
    subtitle_streams: int
    alpha: bool
    scan: str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One upright frame: `pixels` is (H, W, 3) uint8 RGB and read-only, `time` in seconds from the video's clock zero.

    `settling` marks a frame that is shown again only to let a resumed stage settle; what the stage returns for it is
    dropped. The pixels of a PQ or HLG video are what its picture looks like on an ordinary screen.
    """

    index: int
    time: float
    pixels: NDArray[np.uint8]
    settling: bool = False


class FrameStage(Protocol):
    """What is done to the frames of a video. It is called from one thread, in frame order, so it may keep a state."""

    def __call__(self, frames: list[Frame]) -> list[NDArray[np.uint8]]:
        """Consecutive frames to as many (H, W, 3) uint8 RGB pictures, all of one size over the whole video."""
        ...

    def reset(self, index: int) -> None:
        """Forget everything: the next frame is number `index` and has no predecessor."""
        ...


class PerFrame:
    """A `FrameStage` out of a function of one frame's pixels."""

    def __init__(self, function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
        self.function = function

    def __call__(self, frames: list[Frame]) -> list[NDArray[np.uint8]]:
        return [self.function(frame.pixels) for frame in frames]

    def reset(self, index: int) -> None:
        """A function of one frame has no state."""


@dataclass(frozen=True, slots=True)
class VideoReport:
    """What became of a video.

    `frames` counts all frames of the output; `damaged` lists the indices of frames the decoder could not read
    faithfully (they show the decoder's best effort or repeat their neighbour); `segments_reused` come from an
    interrupted run. `fps` counts only the frames of this run. `notes` are sentences about what could not be kept as it
    was, and about what was done to the fields of an interlaced video.
    """

    frames: int
    damaged: tuple[int, ...]
    segments_reused: int
    width: int
    height: int
    seconds: float
    fps: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of `process_video` that shape the work, checked."""

    batch_size: int
    segment_frames: int
    warmup: int
    queue_size: int
    crf: int
    preset: str
    suffix: str
    deinterlace: Deinterlace

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("segment_frames", 1), ("warmup", 0), ("queue_size", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"crf must be between 0 and 51, not {self.crf}")
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}; use one of {', '.join(PRESETS)}")
        if self.deinterlace not in DEINTERLACE:
            raise UsageError(f"deinterlace must be one of {', '.join(DEINTERLACE)}, not {self.deinterlace!r}")
