"""What a video says about itself, and whether a file is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from ..kinds import kind_of
from .colour import Colour, display_matrix, has_alpha
from .fields import Scan, inspect
from .read import first_frame, frame_rate, open_input, packets, stream_seconds, video_stream
from .records import VideoInfo

if TYPE_CHECKING:
    from av.container import InputContainer


def is_video(path: str | Path) -> bool:
    """Whether a file looks like a video, by its first bytes or its suffix. Never raises; a folder is not one."""
    kind = kind_of(path)
    return kind is not None and kind.is_video


def probe(path: str | Path) -> VideoInfo:
    """Read the facts about a video by decoding its first frame and a few stretches.

    Raises VideoError when the file is not a video, holds no readable frame or cannot be opened.
    """
    return examine(Path(path))[0]


def examine(path: Path) -> tuple[VideoInfo, Scan]:
    """What `probe` finds, and how the video was scanned."""
    variable = _has_variable_rate(path)
    with open_input(path) as container:
        stream = video_stream(container, path)
        frame = first_frame(container, stream, path)
        scan = inspect(path)
        return _describe(container, stream, frame, variable, scan.kind), scan


def _describe(
    container: InputContainer, stream: av.VideoStream, frame: av.VideoFrame, variable: bool, scan: str
) -> VideoInfo:
    turned = display_matrix(frame) is not None and abs(frame.rotation) % 180 == 90
    width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    rate = float(frame_rate(stream))
    duration = stream_seconds(stream) or (container.duration or 0) / av.time_base
    return VideoInfo(
        width=width,
        height=height,
        rotation=-frame.rotation % 360,
        frames=stream.frames or (round(duration * rate) or None),
        duration=float(duration),
        fps=rate,
        variable_rate=variable,
        pix_fmt=frame.format.name,
        full_range=Colour.of(frame).full_range,
        colour_space=int(frame.colorspace),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        codec=stream.codec_context.codec.canonical_name,
        audio_streams=len(container.streams.audio),
        subtitle_streams=len(container.streams.subtitles),
        alpha=has_alpha(frame),
        scan=scan,
    )


def _has_variable_rate(path: Path, count: int = 128) -> bool:
    with open_input(path) as container:
        stream = video_stream(container, path)
        times: list[int] = []
        for packet in packets(container, stream):
            if packet.pts is not None:
                times.append(packet.pts)
            if len(times) == count:
                break
        times = sorted(times)[: max(2, len(times) - 16)]  # frames reordered behind the last packet leave gaps
        steps = np.diff(np.asarray(times, np.float64)) * float(stream.time_base or 1)
        # containers that count milliseconds alternate 33 and 34
        return len(steps) > 1 and float(np.ptp(steps)) > 0.0021
