"""Opening and decoding a video."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.stream import Disposition

from ...errors import VideoError
from ...processors import codec_threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer

# decoders that know the transparency of a codec; FFmpeg's own ones of the same names leave it out
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_DEMUX_RETRIES = 16
_FALL, _LEAP = Fraction(1, 2), Fraction(10)
_FASTEST = 2000  # frames per second of slow-motion cameras; beyond, it is the clock's rate


@dataclass(slots=True)
class Shot:
    """A decoded frame with its time in units of the stream's time base."""

    frame: av.VideoFrame
    pts: int | None
    damaged: bool = False


class Timeline:
    """Carries a video's clock over the places where recordings were joined and it starts anew or leaps.

    Formats that can simply be strung together (`JOINABLE`) are watched: a stream that falls back by more than half a
    second, or leaps more than ten seconds ahead of all others, has come to such a place, and the video goes on there
    without a gap. Packets of other streams around it belong to whichever side brings them nearer to the present.
    """

    JOINABLE = frozenset({"mpegts", "mpegtsraw", "mpeg", "flv"})

    def __init__(self, container: InputContainer) -> None:
        self.watched = container.format.name in self.JOINABLE
        self._shifts = [Fraction(0)]
        self._now: Fraction | None = None
        self._last: dict[int, Fraction] = {}

    @property
    def joined(self) -> bool:
        """Whether such a place was met."""
        return len(self._shifts) > 1

    def shift_packet(self, packet: av.Packet[Any]) -> Fraction:
        """What has to be added to the times, in seconds, of the next packet of the file."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        return Fraction(0) if stamp is None else self.shift(packet.stream.index, stamp * packet.time_base)

    def shift(self, stream: int, time: Fraction) -> Fraction:
        """What has to be added to the time, in seconds, of the next packet or frame of a stream."""
        if not self.watched:
            return Fraction(0)
        now = time if self._now is None else self._now
        shift = min(self._shifts[-2:], key=lambda known: abs(time + known - now))
        moved = time + shift
        if moved > now + _LEAP or moved < self._last.get(stream, moved) - _FALL:
            shift, moved = now - time, now
            self._shifts.append(shift)
        self._now, self._last[stream] = max(now, moved), moved
        return shift


def open_input(path: Path) -> InputContainer:
    """Open a video; raises VideoError with the reason why that is not possible."""
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
    """The first video of the container that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            # a decoder error then belongs to the packet just sent, which frame threads would blur
            stream.thread_type = "SLICE"
            stream.codec_context.thread_count = codec_threads()
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


def first_frame(container: InputContainer, stream: av.VideoStream, path: Path) -> av.VideoFrame:
    """The first frame from here on; raises VideoError when there is none."""
    shot = next(read_shots(container, stream), None)
    if shot is None:
        raise VideoError(f"{path}: no frame could be decoded; the file is truncated or damaged")
    return shot.frame


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
