"""Opening, probing and decoding a film."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.stream import Disposition

from ...errors import VideoError
from .colour import Colour, display_matrix, has_alpha
from .records import VideoInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})

_STILL_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
# decoders that know the transparency of a codec; FFmpeg's own ones of the same names leave it out
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_DEMUX_RETRIES = 16
_FASTEST = 2000  # frames per second of slow-motion cameras; beyond, it is the clock's rate


@dataclass(slots=True)
class Shot:
    """A decoded frame with its time in units of the stream's time base."""

    frame: av.VideoFrame
    pts: int | None
    damaged: bool = False


@dataclass(slots=True)
class Continuity:
    """Carries a stream's clock over the places where recordings were joined and it starts anew.

    Times that fall back by more than half a second go on after the last one. In transport and program streams, whose
    clocks run through a whole day of broadcast, so do times that leap ahead by more than ten seconds.
    """

    base: Fraction
    may_break: bool
    last: int | None = None
    shift: int = 0

    @classmethod
    def of(cls, container: InputContainer, base: Fraction) -> Continuity:
        """For one stream of a film, whose times count in units of `base`."""
        return cls(base, container.format.name in {"mpegts", "mpeg", "mpegtsraw"})

    def place(self, time: int, duration: int) -> int:
        """A stream's next time, moved so that it follows the one before."""
        if self.last is not None:
            step = (time + self.shift - self.last) * self.base
            if step < Fraction(-1, 2) or (self.may_break and step > 10):
                self.shift = self.last + max(1, duration) - time
        moved = time + self.shift
        self.last = moved if self.last is None else max(self.last, moved)
        return moved


def is_video(path: str | Path) -> bool:
    """Whether a file looks like a video, by its first bytes or its suffix. Never raises; a folder is not one."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            head = stream.read(189)
    except OSError:
        return False
    return _has_video_signature(head) or file.suffix.lower() in VIDEO_SUFFIXES


def _has_video_signature(head: bytes) -> bool:
    if head[4:8] == b"ftyp":
        return head[8:12] not in _STILL_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    transport_stream = len(head) > 188 and head[0] == 0x47 and head[188] == 0x47
    return transport_stream or head.startswith((b"\x1aE\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba"))


def probe(path: str | Path) -> VideoInfo:
    """Read the facts about a video by decoding its first frame and a few stretches.

    Raises VideoError when the file is no video, holds no readable frame or cannot be opened.
    """
    from .fields import inspect

    file = Path(path)
    variable = _has_variable_rate(file)
    with open_input(file) as container:
        stream = video_stream(container, file)
        shot = next(read_shots(container, stream), None)
        if shot is None:
            raise VideoError(f"{file}: no frame could be decoded; the file is truncated or damaged")
        return _describe(container, stream, shot.frame, variable, inspect(file).kind)


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


def open_input(path: Path) -> InputContainer:
    """Open a film; raises VideoError with the reason why that is not possible."""
    try:
        if path.is_dir():
            raise VideoError(f"{path} is a folder, not a video")
        if path.stat().st_size == 0:
            raise VideoError(f"{path} is empty")
        return av.open(str(path), metadata_errors="replace")
    except FileNotFoundError as error:
        raise VideoError(f"{path} does not exist") from error
    except PermissionError as error:
        raise VideoError(f"{path} cannot be read: no permission") from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path} is not a readable video (unknown format, truncated or damaged)") from error


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The first film of the container that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            # a decoder error then belongs to the packet just sent, which frame threads would blur
            stream.thread_type = "SLICE"
            return stream
    raise VideoError(f"{path} has no video stream that can be decoded")


def packets(container: InputContainer, *streams: Any) -> Iterator[av.Packet[Any]]:
    """Packets of some streams (of all, when none is named) up to the end, over damaged stretches of the container."""
    for _ in range(_DEMUX_RETRIES):
        try:
            yield from container.demux(*streams)
            return
        except av.error.FFmpegError:
            continue


def read_shots(container: InputContainer, stream: av.VideoStream) -> Iterator[Shot]:
    """Frames in presentation order; a frame that could not be decoded repeats its predecessor at its own time."""
    decoder = _decoder(stream)
    lost: list[int] = []
    previous: av.VideoFrame | None = None
    unplaced_damage = False
    for packet in packets(container, stream):
        frames = _decode(packet, decoder)
        if frames is None or packet.is_corrupt:
            if packet.pts is None:
                unplaced_damage = True
            else:
                heapq.heappush(lost, packet.pts)
        for frame in frames or []:
            while lost and frame.pts is not None and lost[0] < frame.pts:
                yield Shot(previous or frame, heapq.heappop(lost), damaged=True)
            hit = bool(lost) and lost[0] == frame.pts
            if hit:
                heapq.heappop(lost)
            yield Shot(frame, frame.pts, damaged=hit or unplaced_damage or frame.is_corrupt)
            previous, unplaced_damage = frame, False
    while previous is not None and lost:
        yield Shot(previous, heapq.heappop(lost), damaged=True)


def _decoder(stream: av.VideoStream) -> Any:
    context = stream.codec_context
    name = _ALPHA_DECODERS.get(context.codec.canonical_name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1" or name not in av.codecs_available:
        return context
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = context.extradata
    return decoder


def _decode(packet: av.Packet[Any], decoder: Any) -> list[av.VideoFrame] | None:
    """The frames that became ready, or None when the packet is damaged."""
    try:
        frames: list[av.VideoFrame] = decoder.decode(packet if packet.size else None)
        return frames
    except av.error.EOFError:
        return []
    except av.error.FFmpegError:
        return None


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


def frame_rate(stream: av.VideoStream) -> Fraction:
    """Frames per second on average. Where the container gives only the ticks of its clock (raw DV), the rate guessed
    from the codec counts, and 25 where nothing tells."""
    rates = (stream.average_rate, stream.guessed_rate, stream.codec_context.framerate, stream.base_rate)
    return next((Fraction(rate) for rate in rates if rate and 0 < rate <= _FASTEST), Fraction(25))


def stream_seconds(stream: av.VideoStream) -> float:
    """Length of a stream by its header or its DURATION tag (Matroska), 0 when neither tells."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    fields = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(v) for v in fields)
    except ValueError:
        return 0.0
    return hours * 3600 + minutes * 60 + seconds
