"""Video files in and out: frames are decoded, handed to a stage and encoded, in parallel and with constant memory.

What is kept: every frame's timestamp (also at a variable frame rate), audio and subtitle packets bit for bit where the
target container can hold them, metadata and chapters, colour range and colour space (used for the RGB conversion, too),
the pixel aspect ratio, and a bit depth above eight. Rotation is applied to the pixels, so that faces stand upright, and
the output carries no rotation any more.

The encoded picture is H.264 (VP9 for WebM) in 4:2:0 without B-frames, which makes decoding and presentation order equal
and therefore timestamps exact and finished segments joinable without encoding again. A picture with an odd width or
height keeps its size and is stored as 4:4:4 in H.264, which VLC, mpv, ffmpeg, Chrome and Firefox play but some hardware
players do not.

A job writes segments into `<target>.parts/`, and an interrupted one continues after the last finished segment.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import json
import os
import shutil
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation

from ..errors import OutputError, UsageError, VideoError
from .kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from av.container import InputContainer, OutputContainer
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

_JOB_FORMAT = 1
_RGB_MATRIX, _UNSPECIFIED = 0, 2
# AVCOL_SPC_* of a stream → the matrix swscale uses for it
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_SCALING = Interpolation(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_DEMUX_RETRIES = 16


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file says about itself.

    `width` and `height` are upright, after `rotation` (the clockwise turn in degrees that the stored picture needs).
    `frames` is the container's count or an estimate, None when unknown; `duration` is in seconds (0 when unknown) and
    `fps` the average rate. The colour entries are the codes of ITU-T H.273 (2 means unspecified).
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


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One upright frame: `pixels` is (H, W, 3) uint8 RGB and read-only, `time` in seconds from the film's clock zero.

    `settling` marks a frame that is shown again only to let a resumed stage settle; what the stage returns for it is
    dropped.
    """

    index: int
    time: float
    pixels: NDArray[np.uint8]
    settling: bool = False


class FrameStage(Protocol):
    """What is done to the frames of a film. It is called from one thread, in frame order, so it may keep a state."""

    def __call__(self, frames: list[Frame]) -> list[NDArray[np.uint8]]:
        """Consecutive frames to as many (H, W, 3) uint8 RGB pictures, all of one size over the whole film."""
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
    """What became of a film.

    `frames` counts all frames of the output; `damaged` lists the indices of frames the decoder could not read
    faithfully (they show the decoder's best effort or repeat their neighbour); `segments_reused` come from an
    interrupted run. `fps` counts only the frames of this run. `notes` are sentences about what could not be kept.
    """

    frames: int
    damaged: tuple[int, ...]
    segments_reused: int
    width: int
    height: int
    seconds: float
    fps: float
    notes: tuple[str, ...]


def is_video(path: str | Path) -> bool:
    """Whether a file looks like a video, by its first bytes or its suffix. Never raises; a folder is not one."""
    kind = kind_of(path)
    return kind is not None and kind.is_film


def probe(path: str | Path) -> VideoInfo:
    """Read the facts about a video by decoding its first frame.

    Raises VideoError when the file is no video, holds no readable frame or cannot be opened.
    """
    file = Path(path)
    variable = _has_variable_rate(file)
    with _open(file) as container:
        stream = _video_stream(container, file)
        shot = next(_read_shots(container, stream), None)
        if shot is None:
            raise VideoError(f"{file}: no frame could be decoded; the file is truncated or damaged")
        return _describe(container, stream, shot.frame, variable)


def _describe(container: InputContainer, stream: av.VideoStream, frame: av.VideoFrame, variable: bool) -> VideoInfo:
    turned = _display_matrix(frame) is not None and abs(frame.rotation) % 180 == 90
    width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    duration = _stream_seconds(stream) or (container.duration or 0) / av.time_base
    return VideoInfo(
        width=width,
        height=height,
        rotation=-frame.rotation % 360,
        frames=stream.frames or (round(duration * rate) or None),
        duration=float(duration),
        fps=rate,
        variable_rate=variable,
        pix_fmt=frame.format.name,
        full_range=_Colour.of(frame).full_range,
        colour_space=int(frame.colorspace),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        codec=stream.codec_context.codec.canonical_name,
        audio_streams=len(container.streams.audio),
        subtitle_streams=len(container.streams.subtitles),
    )


def process_video(
    source: str | Path,
    target: str | Path,
    stage: FrameStage,
    *,
    overwrite: bool = False,
    resume: bool = False,
    parameters: str = "",
    batch: int = 1,
    segment_frames: int = 240,
    warmup: int = 12,
    queue_size: int = 8,
    crf: int = 16,
    preset: str = "medium",
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoReport:
    """Pass every frame of a film through `stage` and write the result, with sound and subtitles, to `target`.

    The stage gets up to `batch` consecutive frames per call. The film grows in segments of `segment_frames` frames
    in `<target>.parts/`; `target` itself appears only when everything is done. With `resume`, finished segments of an
    interrupted run with the same source and the same `parameters` (any text that stands for the stage's settings) are
    reused; the stage then starts with `reset` and `warmup` frames whose results are dropped. `crf` and `preset` are
    x264's (lower `crf` is better; WebM ignores the preset). `metadata` adds container tags. `progress` is called with
    the number of finished frames and the expected total.

    Raises VideoError for an unreadable source or a job that does not fit, OutputError for a target that cannot be
    written, UsageError for a senseless option; whatever the stage raises passes through unchanged. After Ctrl-C or an
    exception no target is left behind, and finished segments wait for `resume`.
    """
    settings = _Settings(batch, segment_frames, warmup, queue_size, crf, preset, Path(target).suffix.lower())
    source, target = Path(source), Path(target)
    _check_target(source, target, overwrite)
    info = probe(source)
    job = _Job.start(source, target, parameters, settings, resume)
    run = _Run(source, info, stage, job, settings, progress)
    started = time.perf_counter()
    try:
        run.execute()
        notes = _publish(job, source, target, dict(metadata or {}))
    except BaseException as error:
        _leave(job, error)
        raise
    job.remove()
    seconds = time.perf_counter() - started
    last = job.parts[-1]
    return VideoReport(
        frames=job.frames,
        damaged=tuple(i for part in job.parts for i in part.damaged),
        segments_reused=run.reused,
        width=last.width,
        height=last.height,
        seconds=seconds,
        fps=(job.frames - run.first) / seconds,
        notes=(*run.notes, *notes),
    )


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in TARGET_FORMATS:
        raise UsageError(f"{target}: cannot write this kind of video; use one of {', '.join(TARGET_FORMATS)}")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file")
    if target.exists():
        if source.exists() and target.samefile(source):
            raise OutputError(f"{target} is the source itself; choose another name")
        if not overwrite:
            raise OutputError(f"{target} exists already; allow overwriting or choose another name")


def _leave(job: _Job, error: BaseException) -> None:
    """Keep what can be resumed, drop the rest, and say so."""
    if not job.parts:
        job.remove()
        return
    job.drop_unfinished()
    message = f"{job.frames} finished frames are kept in {job.folder}; run again with resume to continue after them"
    if isinstance(error, KeyboardInterrupt):
        error.args = (f"interrupted; {message}",)
    else:
        error.add_note(message)


@dataclass(frozen=True, slots=True)
class _Settings:
    batch: int
    segment_frames: int
    warmup: int
    queue_size: int
    crf: int
    preset: str
    suffix: str

    def __post_init__(self) -> None:
        for name, low in (("batch", 1), ("segment_frames", 1), ("warmup", 0), ("queue_size", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"crf must be between 0 and 51, not {self.crf}")
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}; use one of {', '.join(PRESETS)}")


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


@dataclass(slots=True)
class _Shot:
    """A decoded frame with its time in units of the stream's time base."""

    frame: av.VideoFrame
    pts: int | None
    damaged: bool = False


def _open(path: Path) -> InputContainer:
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


def _video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            # a decoder error then belongs to the packet just sent, which frame threads would blur
            stream.thread_type = "SLICE"
            return stream
    raise VideoError(f"{path} has no video stream that can be decoded")


def _packets(container: InputContainer, *streams: Any) -> Iterator[av.Packet[Any]]:
    """Packets of some streams up to the end, over damaged stretches of the container."""
    for _ in range(_DEMUX_RETRIES):
        try:
            yield from container.demux(*streams)
            return
        except av.error.FFmpegError:
            continue


def _decode(packet: av.Packet[Any]) -> list[av.VideoFrame] | None:
    """The frames that became ready, or None when the packet is damaged."""
    try:
        return packet.decode()
    except av.error.EOFError:
        return []
    except av.error.FFmpegError:
        return None


def _read_shots(container: InputContainer, stream: av.VideoStream) -> Iterator[_Shot]:
    """Frames in presentation order; a frame that could not be decoded repeats its predecessor at its own time."""
    lost: list[int] = []
    previous: av.VideoFrame | None = None
    unplaced_damage = False
    for packet in _packets(container, stream):
        frames = _decode(packet)
        if frames is None or packet.is_corrupt:
            if packet.pts is None:
                unplaced_damage = True
            else:
                heapq.heappush(lost, packet.pts)
        for frame in frames or []:
            while lost and frame.pts is not None and lost[0] < frame.pts:
                yield _Shot(previous or frame, heapq.heappop(lost), damaged=True)
            hit = bool(lost) and lost[0] == frame.pts
            if hit:
                heapq.heappop(lost)
            yield _Shot(frame, frame.pts, damaged=hit or unplaced_damage or frame.is_corrupt)
            previous, unplaced_damage = frame, False
    while previous is not None and lost:
        yield _Shot(previous, heapq.heappop(lost), damaged=True)


def _has_variable_rate(path: Path, packets: int = 128) -> bool:
    with _open(path) as container:
        stream = _video_stream(container, path)
        times: list[int] = []
        for packet in _packets(container, stream):
            if packet.pts is not None:
                times.append(packet.pts)
            if len(times) == packets:
                break
        times = sorted(times)[: max(2, len(times) - 16)]  # frames reordered behind the last packet leave gaps
        steps = np.diff(np.asarray(times, np.float64)) * float(stream.time_base or 1)
        return (
            len(steps) > 1 and float(np.ptp(steps)) > 0.0021
        )  # containers that count milliseconds alternate 33 and 34


def _stream_seconds(stream: av.VideoStream) -> float:
    """Length of a stream by its header or its DURATION tag (Matroska), 0 when neither tells."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    fields = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(v) for v in fields)
    except ValueError:
        return 0.0
    return hours * 3600 + minutes * 60 + seconds


def _display_matrix(frame: av.VideoFrame) -> NDArray[np.int32] | None:
    # for single frames only: a frame whose side data was looked at lives on until the cycle collector runs
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)


def _upright(pixels: NDArray[Any], matrix: NDArray[np.int32] | None) -> NDArray[Any]:
    """Apply the quarter turn and mirroring of a display matrix (ISO/IEC 14496-12, 8.3.2) to (H, W, C) pixels."""
    if matrix is None:
        return pixels
    (a, b), (c, d) = (int(v) for v in matrix[0, :2]), (int(v) for v in matrix[1, :2])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip_x, flip_y = a < 0, d < 0
    else:
        pixels = pixels.swapaxes(0, 1)
        flip_x, flip_y = c < 0, b < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


# ---------------------------------------------------------------------------------------------------------------------
# Colour


@dataclass(frozen=True, slots=True)
class _Colour:
    """How YUV and RGB relate in a film, and the tags that say so."""

    matrix: int
    full_range: bool
    space: int
    primaries: int
    transfer: int
    range_tag: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> _Colour:
        """The colour of a decoded frame. Untagged: BT.709 from 720p on, else BT.601, like in players."""
        guess = 1 if max(frame.height, frame.width) >= 1280 or min(frame.height, frame.width) >= 720 else 5
        space, range_tag = int(frame.colorspace), int(frame.color_range)
        if frame.format.is_rgb or space == _RGB_MATRIX:
            space, range_tag = (1 if guess == 1 else 6), int(ColorRange.MPEG)
        if frame.format.name.startswith("yuvj"):
            range_tag = int(ColorRange.JPEG)
        return cls(
            matrix=_MATRICES.get(space, guess),
            full_range=range_tag == ColorRange.JPEG,
            space=space,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            range_tag=range_tag,
        )

    def _range(self) -> ColorRange:
        return ColorRange.JPEG if self.full_range else ColorRange.MPEG

    def to_rgb(self, frame: av.VideoFrame, size: tuple[int, int], deep: bool) -> NDArray[Any]:
        """(H, W, 3) RGB of `size` (width, height): uint16 when `deep`, else uint8."""
        rgb = frame.format.is_rgb
        return frame.to_ndarray(
            format="rgb48le" if deep else "rgb24",
            width=size[0],
            height=size[1],
            src_colorspace=None if rgb else self.matrix,
            src_color_range=None if rgb else self._range(),
            dst_color_range=None if rgb else ColorRange.JPEG,
            interpolation=_SCALING,
        )

    def to_yuv(self, pixels: NDArray[Any], pix_fmt: str) -> av.VideoFrame:
        """(H, W, 3) uint8 or uint16 RGB to an encodable frame."""
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le" if pixels.dtype == np.uint16 else "rgb24")
        # swscale rounds full-range chroma down, which tints the picture; on the way over 12 bits that does not show
        over = [pix_fmt + "12le"] if self.full_range and not pix_fmt.endswith("le") else []
        for step in (*over, pix_fmt):
            frame = frame.reformat(
                format=step,
                src_colorspace=None if frame.format.is_rgb else self.matrix,
                dst_colorspace=self.matrix,
                src_color_range=ColorRange.JPEG if frame.format.is_rgb else self._range(),
                dst_color_range=self._range(),
                interpolation=_SCALING,
            )
        frame.colorspace, frame.color_range = self.space, self.range_tag
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer
        return frame


def _is_deep(frame: av.VideoFrame) -> bool:
    return any(component.bits > 8 for component in frame.format.components)


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What converting and encoding frames need to know about the film, from its first frame."""

    colour: _Colour
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None
    source_format: str
    deep: bool
    display_matrix: NDArray[np.int32] | None

    @classmethod
    def of(cls, stream: av.VideoStream, frame: av.VideoFrame) -> _Look:
        matrix = _display_matrix(frame)
        turned = matrix is not None and abs(int(matrix[0, 1])) > abs(int(matrix[0, 0]))
        aspect = stream.sample_aspect_ratio or None
        return cls(
            colour=_Colour.of(frame),
            rate=Fraction(stream.average_rate or stream.guessed_rate or 25),
            time_base=Fraction(stream.time_base or Fraction(1, 90000)),
            aspect=1 / aspect if aspect and turned else aspect,
            source_format=frame.format.name,
            deep=_is_deep(frame),
            display_matrix=matrix,
        )

    def encoder(self, suffix: str, width: int, height: int) -> tuple[str, str]:
        """Name of the encoder and its pixel format for pictures of that size."""
        if suffix == ".webm":
            return "libvpx-vp9", "yuv420p"
        odd = width % 2 or height % 2
        if not self.deep:
            return "libx264", "yuv444p" if odd else "yuv420p"
        if self.source_format in {"yuv420p10le", "yuv422p10le", "yuv444p10le"} and not odd:
            return "libx264", self.source_format
        return "libx264", "yuv444p10le" if odd else "yuv420p10le"


class _SegmentWriter:
    """Encodes one run of frames into one file. NUT holds any codec and any time base exactly."""

    def __init__(self, path: Path, look: _Look, settings: _Settings, width: int, height: int) -> None:
        self.path, self.look = path, look
        codec, self.pix_fmt = look.encoder(settings.suffix, width, height)
        if codec == "libx264":
            options = {"crf": str(settings.crf), "preset": settings.preset, "bf": "0"}
        else:
            options = {"crf": str(min(63, settings.crf + 10)), "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        self.container: OutputContainer = av.open(str(path), "w", format="nut")
        stream: Any = self.container.add_stream(codec, rate=look.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, self.pix_fmt
        context = stream.codec_context
        context.time_base = look.time_base
        if codec != "libx264":
            context.bit_rate = 0
        if look.aspect:
            context.sample_aspect_ratio = look.aspect
        colour = look.colour
        context.colorspace, context.color_range = colour.space, colour.range_tag
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        self.stream = stream

    def write(self, pixels: NDArray[Any], pts: int) -> None:
        frame = self.look.colour.to_yuv(pixels, self.pix_fmt)
        frame.pts, frame.time_base = pts, self.look.time_base
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def discard(self) -> None:
        self.container.close()
        self.path.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# The job folder


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished segment: the frames' times, the length of the last one, and which frames were damaged."""

    first: int
    pts: list[int]
    last_duration: int
    damaged: list[int]
    width: int
    height: int


class _Job:
    """The folder `<target>.parts/`: a description of the job and the segments finished so far."""

    def __init__(self, folder: Path, description: dict[str, Any], suffix: str) -> None:
        self.folder, self.description, self.suffix = folder, description, suffix
        self.parts: list[_Part] = []

    @classmethod
    def start(cls, source: Path, target: Path, parameters: str, settings: _Settings, resume: bool) -> _Job:
        description = {
            "format": _JOB_FORMAT,
            "source": _fingerprint(source),
            "parameters": parameters,
            "encoding": [settings.segment_frames, settings.crf, settings.preset, settings.suffix],
        }
        job = cls(target.with_name(target.name + ".parts"), description, settings.suffix)
        if job.folder.exists():
            found = job._read_description()
            if resume:
                job._check(found)
                job._collect()
            else:
                job.remove()
        try:
            job.folder.mkdir(exist_ok=True)
            job.drop_unfinished()
            _write_atomically(job.folder / "job.json", json.dumps(description))
        except OSError as error:
            raise OutputError(f"{job.folder} cannot be written: {error.strerror}") from error
        return job

    @property
    def frames(self) -> int:
        return sum(len(part.pts) for part in self.parts)

    @property
    def result(self) -> Path:
        return self.folder / f"result.partial{self.suffix}"

    def segment(self, part: _Part | int) -> Path:
        first = part if isinstance(part, int) else part.first
        return self.folder / f"{first:08d}.nut"

    def commit(self, written: Path, part: _Part) -> None:
        """Make a segment count. Its description comes first, so that a segment never lacks one."""
        _write_atomically(self.segment(part).with_suffix(".json"), json.dumps(asdict(part)))
        _sync(written)
        written.replace(self.segment(part))
        self.parts.append(part)

    def drop_unfinished(self) -> None:
        for file in self.folder.glob("*.partial*"):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_description(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                return self.description
            raise OutputError(f"{self.folder} is in the way and is no unfinished job; move it elsewhere") from error
        return dict(found)

    def _check(self, found: dict[str, Any]) -> None:
        changed = [name for name, value in self.description.items() if found.get(name) != value]
        if changed:
            raise VideoError(
                f"cannot resume the job in {self.folder}: its {' and '.join(changed)} changed since; "
                "use the former settings, or run without resume to start over"
            )

    def _collect(self) -> None:
        """Finished segments from the start of the film up to the first gap."""
        while self.segment(self.frames).exists():
            text = self.segment(self.frames).with_suffix(".json").read_text(encoding="utf-8")
            self.parts.append(_Part(**json.loads(text)))


def _fingerprint(path: Path) -> dict[str, Any]:
    stat = path.stat()
    with path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(1 << 20)).hexdigest()
    return {"size": stat.st_size, "modified": stat.st_mtime_ns, "head": digest}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


# ---------------------------------------------------------------------------------------------------------------------
# Three threads and two bounded queues

_Item = TypeVar("_Item")


class _Stopped(Exception):
    """The other end of a channel gave up."""


class _Channel(Generic[_Item]):
    """A bounded queue of one writer and one reader that either end can abort; the other then gets the reason."""

    def __init__(self, size: int) -> None:
        self._items: deque[_Item] = deque()
        self._size = size
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, item: _Item) -> None:
        with self._changed:
            while len(self._items) >= self._size and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """No more items follow."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._items.clear()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what the other end gave up with, if it did."""
        if self._error is not None:
            raise self._error

    def __iter__(self) -> Iterator[_Item]:
        while True:
            with self._changed:
                while not self._items and not self._closed and self._error is None:
                    self._changed.wait()
                if self._error is not None:
                    raise self._error
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    """A frame on its way through the stages; `deep` holds the 16-bit RGB of a source with more than eight bits."""

    frame: Frame
    pts: int
    duration: int
    damaged: bool
    deep: NDArray[np.uint16] | None


class _Run:
    """One pass over the frames that no finished segment holds yet."""

    def __init__(
        self,
        source: Path,
        info: VideoInfo,
        stage: FrameStage,
        job: _Job,
        settings: _Settings,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self.source, self.info, self.stage, self.job, self.settings = source, info, stage, job, settings
        self.progress = progress or (lambda done, total: None)
        self.reused, self.first = len(job.parts), job.frames
        self.notes: list[str] = []
        self.look: _Look | None = None
        self.decoded: _Channel[_Ticket] = _Channel(settings.queue_size)
        self.finished: _Channel[tuple[_Ticket, NDArray[np.uint8]]] = _Channel(settings.queue_size)

    def execute(self) -> None:
        """Decode, process and encode everything that is missing. The stage runs in the calling thread."""
        if self.job.parts and len(self.job.parts[-1].pts) < self.settings.segment_frames:
            return  # the last, shorter segment is there already
        threads = [
            threading.Thread(target=self._guard, args=(self._feed, self.decoded), name="decode", daemon=True),
            threading.Thread(target=self._guard, args=(self._drain, self.finished), name="encode", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            self._process()
            self.finished.close()
            threads[1].join()
            self.finished.check()
        finally:
            self.decoded.abort(_Stopped())
            self.finished.abort(_Stopped())
            for thread in threads:
                thread.join()

    def _guard(self, work: Callable[[], None], channel: _Channel[Any]) -> None:
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:
            channel.abort(error)

    # -- the calling thread ------------------------------------------------------------------------------------------

    def _process(self) -> None:
        self.stage.reset(max(0, self.first - self.settings.warmup))
        self.progress(self.first, self.info.frames)
        waiting: list[_Ticket] = []
        for ticket in self.decoded:
            if waiting and waiting[0].frame.settling != ticket.frame.settling:
                self._apply(waiting)
                waiting = []
            waiting.append(ticket)
            if len(waiting) == self.settings.batch:
                self._apply(waiting)
                waiting = []
        if waiting:
            self._apply(waiting)

    def _apply(self, tickets: list[_Ticket]) -> None:
        pictures = self.stage([ticket.frame for ticket in tickets])
        if len(pictures) != len(tickets):
            raise VideoError(f"the stage returned {len(pictures)} pictures for {len(tickets)} frames")
        for ticket, picture in zip(tickets, pictures, strict=True):
            if not ticket.frame.settling:
                self.finished.put((ticket, picture))
        if not tickets[-1].frame.settling:
            done = tickets[-1].frame.index + 1
            self.progress(done, max(done, self.info.frames) if self.info.frames else None)

    # -- the decoding thread -----------------------------------------------------------------------------------------

    def _feed(self) -> None:
        index = max(0, self.first - self.settings.warmup)
        try:
            with _open(self.source) as container, _open(self.source) as fallback:
                stream = _video_stream(container, self.source)
                shots = self._shots_after_jump(container, stream, index)
                if shots is None:
                    shots = _read_shots(fallback, _video_stream(fallback, self.source))
                    deque(zip(range(index), shots, strict=False), maxlen=0)
                self._feed_shots(stream, shots, index)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.source} cannot be decoded: {error}") from error
        self.decoded.close()

    def _shots_after_jump(
        self, container: InputContainer, stream: av.VideoStream, index: int
    ) -> Iterator[_Shot] | None:
        """Shots from number `index` on, decoded from the keyframe before it; None if the times do not allow that."""
        times = [pts for part in self.job.parts for pts in part.pts]
        if not times:
            return None
        known = min(index, len(times) - 1)
        try:
            container.seek(times[known], stream=stream, backward=True)
        except av.error.FFmpegError:
            return None
        shots = _read_shots(container, stream)
        for shot in shots:
            if shot.pts is None or shot.pts > times[known]:
                return None
            if shot.pts == times[known]:
                return shots if index > known else chain([shot], shots)
        return None

    def _feed_shots(self, stream: av.VideoStream, shots: Iterator[_Shot], index: int) -> None:
        clock: _Clock | None = None
        size = (0, 0)
        for shot in shots:
            if clock is None or self.look is None:
                self.look = _Look.of(stream, shot.frame)
                clock = _Clock(self.look.time_base, self.look.rate, index)
                size = (shot.frame.width, shot.frame.height)
            pts, duration = clock.place(shot)
            self.decoded.put(self._ticket(shot, index, pts, duration, size))
            index += 1
        if clock is not None:
            self._note_early_end(stream, clock.end)

    def _ticket(self, shot: _Shot, index: int, pts: int, duration: int, size: tuple[int, int]) -> _Ticket:
        assert self.look is not None
        rgb = _upright(self.look.colour.to_rgb(shot.frame, size, self.look.deep), self.look.display_matrix)
        pixels = (rgb >> 8).astype(np.uint8) if self.look.deep else rgb
        pixels.setflags(write=False)
        frame = Frame(index, float(pts * self.look.time_base), pixels, settling=index < self.first)
        return _Ticket(frame, pts, duration, shot.damaged, rgb if self.look.deep else None)

    def _note_early_end(self, stream: av.VideoStream, end: Fraction) -> None:
        # the container's length may be that of a longer sound track
        length = _stream_seconds(stream) or (0.0 if self.info.audio_streams else self.info.duration)
        promised = float((stream.start_time or 0) * (stream.time_base or 1)) + length
        if promised - float(end) > max(0.5, 0.02 * promised):
            self.notes.append(
                f"the source ends early: {float(end):.1f} s of {promised:.1f} s could be read (truncated or damaged)"
            )

    # -- the encoding thread -----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        writer: _SegmentWriter | None = None
        part: _Part | None = None
        try:
            for ticket, picture in self.finished:
                if part is None or writer is None:
                    part = self._new_part(ticket, picture)
                    writer = self._new_writer(part)
                self._check_picture(picture, part)
                writer.write(_with_depth(ticket, picture), ticket.pts)
                part.pts.append(ticket.pts)
                if ticket.damaged:
                    part.damaged.append(ticket.frame.index)
                part = replace(part, last_duration=ticket.duration)
                if len(part.pts) == self.settings.segment_frames:
                    self._finish(writer, part)
                    writer, part = None, None
            if part is not None and writer is not None:
                self._finish(writer, part)
                writer = None
        except (av.error.FFmpegError, OSError) as error:
            raise _output_error(self.job.folder, error) from error
        finally:
            if writer is not None:
                writer.discard()

    def _new_part(self, ticket: _Ticket, picture: NDArray[np.uint8]) -> _Part:
        height, width = picture.shape[:2]
        before = self.job.parts[-1] if self.job.parts else None
        if before is not None:
            width, height = before.width, before.height
        return _Part(ticket.frame.index, [], ticket.duration, [], width, height)

    def _new_writer(self, part: _Part) -> _SegmentWriter:
        assert self.look is not None
        path = self.job.segment(part).with_suffix(".partial")
        return _SegmentWriter(path, self.look, self.settings, part.width, part.height)

    def _finish(self, writer: _SegmentWriter, part: _Part) -> None:
        writer.finish()
        self.job.commit(writer.path, part)

    def _check_picture(self, picture: NDArray[np.uint8], part: _Part) -> None:
        wanted = (part.height, part.width, 3)
        if picture.shape != wanted or picture.dtype != np.uint8:
            raise VideoError(f"the stage returned {picture.shape} {picture.dtype}, but the film is {wanted} uint8")


class _Clock:
    """Gives every frame a time: its own where it has a sensible one, else the next tick of the average rate."""

    def __init__(self, time_base: Fraction, rate: Fraction, index: int) -> None:
        self.time_base = time_base
        self.tick = max(1, round(1 / (rate * time_base)))
        self.last: int | None = None
        self.index = index
        self.end = Fraction(0)

    def place(self, shot: _Shot) -> tuple[int, int]:
        """(time, duration) in units of the time base; times strictly increase."""
        if shot.pts is not None:
            pts = shot.pts
        else:
            pts = self.index * self.tick if self.last is None else self.last + self.tick
        if self.last is not None and pts <= self.last:
            pts = self.last + 1
        self.last = pts
        duration = shot.frame.duration or self.tick
        self.end = (pts + duration) * self.time_base
        return pts, duration


def _with_depth(ticket: _Ticket, picture: NDArray[np.uint8]) -> NDArray[Any]:
    """Put the stage's change on top of the source's full bit depth, so that untouched pixels keep theirs."""
    picture = np.ascontiguousarray(picture)
    if ticket.deep is None:
        return picture
    if picture.shape != ticket.deep.shape:
        return picture.astype(np.uint16) * 257
    change = (picture.astype(np.int32) - ticket.frame.pixels) * 257
    return np.clip(ticket.deep + change, 0, 65535).astype(np.uint16)


def _output_error(path: Path, error: Exception) -> OutputError:
    full = getattr(error, "errno", None) == errno.ENOSPC
    return OutputError(f"{path} cannot be written: {'the disk is full' if full else error}")


# ---------------------------------------------------------------------------------------------------------------------
# Joining the segments with sound and subtitles


def _publish(job: _Job, source: Path, target: Path, metadata: dict[str, str]) -> list[str]:
    if not job.parts:
        raise VideoError(f"{source}: no frame could be decoded; the file is truncated or damaged")
    try:
        with _open(source) as original:
            notes = _join(job, original, source, metadata)
        _sync(job.result)
        job.result.replace(target)
    except (av.error.FFmpegError, OSError) as error:
        raise _output_error(target, error) from error
    return notes


def _join(job: _Job, original: InputContainer, source: Path, metadata: dict[str, str]) -> list[str]:
    kept = _video_stream(original, source)
    with av.open(str(job.segment(job.parts[0]))) as first:
        encoded = first.streams.video[0]
        time_base = Fraction(encoded.time_base or 1)
        options = {}
        if job.suffix not in {".mkv", ".webm"}:
            # edit lists count in the movie's time scale: with the video's own, the first frame's time is exact, too
            options = {"movie_timescale": str(time_base.denominator), "movflags": "+faststart"}
        with av.open(str(job.result), "w", format=TARGET_FORMATS[job.suffix], options=options) as out:
            video: Any = out.add_stream_from_template(encoded)
            video.time_base = time_base
            video.metadata.update(_portable(kept.metadata))
            streams, notes = _side_streams(original, out, kept)
            out.metadata.update({**_portable(original.metadata), **metadata})
            out.set_chapters(original.chapters())
            pictures = _video_packets(job, video)
            sounds = _side_packets(original, streams)
            for packet in heapq.merge(pictures, sounds, key=_seconds):
                out.mux(packet)
    return notes


def _portable(metadata: Mapping[str, str]) -> dict[str, str]:
    """Tags without those that describe the old file rather than the film."""
    technical = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "number_of_frames"}
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in technical and not key.startswith("_STATISTICS") and not key.startswith("NUMBER_OF_")
    }


def _seconds(packet: av.Packet[Any]) -> float:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return float((stamp or 0) * packet.time_base)


def _video_packets(job: _Job, stream: Any) -> Iterator[av.Packet[Any]]:
    """All segments' packets in order, each as long as the time to the next."""
    times = chain.from_iterable(part.pts for part in job.parts)
    next(times)
    for part in job.parts:
        with av.open(str(job.segment(part))) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.pts is None:
                    continue
                following = next(times, packet.pts + job.parts[-1].last_duration)
                packet.duration = following - packet.pts
                packet.dts = packet.pts
                packet.stream = stream
                yield packet


def _side_streams(
    original: InputContainer, out: OutputContainer, kept: av.VideoStream
) -> tuple[dict[int, tuple[Any, bool]], list[str]]:
    """Source stream index → (output stream, whether to encode anew), and notes on what is not kept as it is."""
    supported = out.supported_codecs
    streams: dict[int, tuple[Any, bool]] = {}
    notes = []
    for stream in original.streams:
        if stream.index == kept.index:
            continue
        codec = stream.codec_context.name if stream.codec_context else "unknown"
        label = f"{stream.type} stream {stream.index} ({codec})"
        canonical = stream.codec_context.codec.canonical_name if stream.codec_context else ""
        if stream.type in {"audio", "subtitle"} and canonical in supported:
            streams[stream.index] = (out.add_stream_from_template(stream), False)
        elif isinstance(stream, av.AudioStream) and stream.codec_context:
            replacement = "libopus" if out.format.name == "webm" else "aac"
            encoded: Any = out.add_stream(replacement, rate=48000 if replacement == "libopus" else stream.rate)
            encoded.layout = stream.layout.name
            streams[stream.index] = (encoded, True)
            notes.append(f"{label} was encoded anew as {replacement}: {out.format.name} cannot hold it")
        else:
            notes.append(f"{label} was left out: {out.format.name} cannot hold it")
            continue
        target = streams[stream.index][0]
        target.metadata.update(_portable(stream.metadata))
        target.disposition = stream.disposition
    return streams, notes


def _side_packets(original: InputContainer, streams: dict[int, tuple[Any, bool]]) -> Iterator[av.Packet[Any]]:
    if not streams:
        return
    for packet in _packets(original, *(original.streams[i] for i in streams)):
        stream, encode = streams[packet.stream.index]
        if encode:
            yield from _encoded_again(packet, stream)
        elif packet.dts is not None or packet.pts is not None:
            packet.stream = stream
            yield packet
    for stream, encode in streams.values():
        if encode:
            yield from stream.encode(None)


def _encoded_again(packet: av.Packet[Any], stream: Any) -> Iterator[av.Packet[Any]]:
    try:
        frames = packet.decode()
    except av.error.FFmpegError:
        return
    for frame in frames:
        yield from stream.encode(frame)
