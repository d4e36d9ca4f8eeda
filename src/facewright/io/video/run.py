"""One pass over the frames of a video: three threads decode, process and encode, with two bounded queues between."""

from __future__ import annotations

import errno
import threading
from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any

import av
import av.error
import cv2
import numpy as np

from ...errors import OutputError, VideoError
from .channel import Channel, Stopped
from .colour import upright
from .encode import Look, SegmentWriter
from .fields import Plan, whole_frames
from .job import Job, Part
from .read import Shot, Timeline, frame_rate, open_input, read_shots, stream_seconds, video_stream
from .records import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from av.container import InputContainer
    from numpy.typing import NDArray

    from .hdr import WorkingSpace
    from .records import FrameStage, Settings, VideoInfo


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A frame on its way through the stages.

    `deep` is the source's 16-bit RGB where that is more than the stage sees, `alpha` its transparency, (H, W) in the
    depth of the source.
    """

    frame: Frame
    pts: int
    duration: int
    damaged: bool
    deep: NDArray[np.uint16] | None
    alpha: NDArray[Any] | None


class Run:
    """One pass over the frames that no finished segment holds yet."""

    def __init__(
        self,
        source: Path,
        info: VideoInfo,
        fields: Plan,
        stage: FrameStage,
        job: Job,
        settings: Settings,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self.source, self.info, self.fields, self.stage = source, info, fields, stage
        self.job, self.settings = job, settings
        self.progress = progress or (lambda done, total: None)
        self.reused, self.first = len(job.parts), job.frames
        self.total = None if info.frames is None else round(info.frames * fields.frames_per_frame)
        self.notes: list[str] = []
        self.look: Look | None = None
        self.timeline: Timeline | None = None
        self.decoded: Channel[Ticket] = Channel(settings.queue_size)
        self.finished: Channel[tuple[Ticket, NDArray[np.uint8]]] = Channel(settings.queue_size)

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
            self.decoded.abort(Stopped())
            self.finished.abort(Stopped())
            for thread in threads:
                thread.join()

    def _guard(self, work: Callable[[], None], channel: Channel[Any]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:
            channel.abort(error)

    # -- the calling thread ------------------------------------------------------------------------------------------

    def _process(self) -> None:
        self.stage.reset(max(0, self.first - self.settings.warmup))
        self.progress(self.first, self.total)
        waiting: list[Ticket] = []
        for ticket in self.decoded:
            if waiting and waiting[0].frame.settling != ticket.frame.settling:
                self._apply(waiting)
                waiting = []
            waiting.append(ticket)
            if len(waiting) == self.settings.batch_size:
                self._apply(waiting)
                waiting = []
        if waiting:
            self._apply(waiting)

    def _apply(self, tickets: list[Ticket]) -> None:
        pictures = self.stage([ticket.frame for ticket in tickets])
        if len(pictures) != len(tickets):
            raise VideoError(f"the stage returned {len(pictures)} pictures for {len(tickets)} frames")
        for ticket, picture in zip(tickets, pictures, strict=True):
            if not ticket.frame.settling:
                self.finished.put((ticket, picture))
        if not tickets[-1].frame.settling:
            done = tickets[-1].frame.index + 1
            self.progress(done, max(done, self.total) if self.total else None)

    # -- the decoding thread -----------------------------------------------------------------------------------------

    def _feed(self) -> None:
        index = max(0, self.first - self.settings.warmup)
        try:
            with open_input(self.source) as container, open_input(self.source) as fallback:
                stream = video_stream(container, self.source)
                shots, base = self._shots_after_jump(container, stream, index), Fraction(stream.time_base or 1)
                if shots is None:
                    shots, base = self._shots_from_start(fallback)
                    deque(zip(range(index), shots, strict=False), maxlen=0)
                self._feed_shots(stream, shots, index, base)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.source} cannot be decoded: {error}") from error
        self.decoded.close()

    def _shots_from_start(self, container: InputContainer) -> tuple[Iterator[Shot], Fraction]:
        stream = video_stream(container, self.source)
        base, rate = Fraction(stream.time_base or 1), frame_rate(stream)
        self.timeline = Timeline(container)
        clock = _Clock(base, rate, 0, self.timeline)
        return whole_frames(clock.run(read_shots(container, stream)), base, rate, self.fields)

    def _shots_after_jump(self, container: InputContainer, stream: av.VideoStream, index: int) -> Iterator[Shot] | None:
        """Shots from number `index` on, decoded from the keyframe before it; None if that is not possible: filters of
        fields depend on what came before, and the times may not allow it."""
        times = [pts for part in self.job.parts for pts in part.pts]
        if not times or self.fields.filters or Timeline(container).watched:
            return None
        known = min(index, len(times) - 1)
        try:
            container.seek(times[known], stream=stream, backward=True)
        except av.error.FFmpegError:
            return None
        shots = read_shots(container, stream)
        for shot in shots:
            if shot.pts is None or shot.pts > times[known]:
                return None
            if shot.pts == times[known]:
                return shots if index > known else chain([shot], shots)
        return None

    def _feed_shots(self, stream: av.VideoStream, shots: Iterator[Shot], index: int, base: Fraction) -> None:
        clock: _Clock | None = None
        size = (0, 0)
        for shot in shots:
            if clock is None or self.look is None:
                self.look = Look.of(stream, shot.frame, self.fields, base)
                clock = _Clock(base, self.look.rate, index)
                size = (shot.frame.width, shot.frame.height)
            shot.pts, duration = clock.place(shot)
            self.decoded.put(self._ticket(shot, index, duration, size))
            index += 1
        if clock is not None:
            self._note_early_end(stream, clock.end)

    def _ticket(self, shot: Shot, index: int, duration: int, size: tuple[int, int]) -> Ticket:
        look, pts = self.look, shot.pts
        assert look is not None
        assert pts is not None
        values = look.colour.to_rgb(shot.frame, size, deep=look.deep, alpha=look.alpha)
        values = upright(values, look.display_matrix)
        rgb = np.ascontiguousarray(values[..., :3])
        pixels, space = rgb, look.working_space
        if space is not None:
            pixels = space.to_working(rgb)
        elif look.deep:
            pixels = (rgb >> 8).astype(np.uint8)
        pixels.setflags(write=False)
        frame = Frame(index, float(pts * look.time_base), pixels, settling=index < self.first)
        alpha = np.ascontiguousarray(values[..., 3]) if look.alpha else None
        return Ticket(frame, pts, duration, shot.damaged, rgb if look.deep else None, alpha)

    def _note_early_end(self, stream: av.VideoStream, end: Fraction) -> None:
        if self.timeline is not None and self.timeline.joined:
            return  # the header's length counts the leaps of the clock
        # the container's length may be that of a longer sound track
        length = stream_seconds(stream) or (0.0 if self.info.audio_streams else self.info.duration)
        promised = float((stream.start_time or 0) * (stream.time_base or 1)) + length
        if promised - float(end) > max(0.5, 0.02 * promised):
            self.notes.append(
                f"the source ends early: {float(end):.1f} s of {promised:.1f} s could be read (truncated or damaged)"
            )

    # -- the encoding thread -----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        writer: SegmentWriter | None = None
        part: Part | None = None
        try:
            for ticket, picture in self.finished:
                if part is None or writer is None:
                    part = self._new_part(ticket, picture)
                    writer = self._new_writer(part)
                self._check_picture(picture, part)
                assert self.look is not None
                writer.write(
                    finished_picture(ticket, picture, self.look.working_space, writer.encoder.alpha), ticket.pts
                )
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
            raise output_error(self.job.folder, error) from error
        finally:
            if writer is not None:
                writer.discard()

    def _new_part(self, ticket: Ticket, picture: NDArray[np.uint8]) -> Part:
        height, width = picture.shape[:2]
        before = self.job.parts[-1] if self.job.parts else None
        if before is not None:
            width, height = before.width, before.height
        assert self.look is not None
        return Part(ticket.frame.index, str(self.look.time_base), [], ticket.duration, [], width, height)

    def _new_writer(self, part: Part) -> SegmentWriter:
        assert self.look is not None
        path = self.job.segment(part).with_suffix(".partial")
        return SegmentWriter(path, self.look, self.settings, part.width, part.height)

    def _finish(self, writer: SegmentWriter, part: Part) -> None:
        writer.finish()
        self.job.commit(writer.path, part)

    def _check_picture(self, picture: NDArray[np.uint8], part: Part) -> None:
        wanted = (part.height, part.width, 3)
        if picture.shape != wanted or picture.dtype != np.uint8:
            raise VideoError(f"the stage returned {picture.shape} {picture.dtype}, but the video is {wanted} uint8")


class _Clock:
    """Gives every frame a time: its own where it has a sensible one, else the next tick of the average rate."""

    def __init__(self, time_base: Fraction, rate: Fraction, index: int, timeline: Timeline | None = None) -> None:
        self.time_base, self.timeline = time_base, timeline
        self.tick = max(1, round(1 / (rate * time_base)))
        self.last: int | None = None
        self.index = index
        self.end = Fraction(0)

    def place(self, shot: Shot) -> tuple[int, int]:
        """(time, duration) in units of the time base; times strictly increase."""
        duration = shot.frame.duration or self.tick
        if shot.pts is not None:
            shift = self.timeline.shift(0, shot.pts * self.time_base) if self.timeline else 0
            pts = shot.pts + round(shift / self.time_base)
        else:
            pts = self.index * self.tick if self.last is None else self.last + self.tick
        if self.last is not None and pts <= self.last:
            pts = self.last + 1
        self.last = pts
        self.end = (pts + duration) * self.time_base
        return pts, duration

    def run(self, shots: Iterator[Shot]) -> Iterator[Shot]:
        """Shots that all have a time."""
        for shot in shots:
            pts, _ = self.place(shot)
            yield Shot(shot.frame, pts, shot.damaged)


def finished_picture(
    ticket: Ticket, picture: NDArray[np.uint8], space: WorkingSpace | None, alpha: bool
) -> NDArray[Any]:
    """What is encoded: the stage's change on top of the source's full depth, so that untouched pixels keep theirs,
    and, with `alpha`, the source's transparency."""
    picture = np.ascontiguousarray(picture)
    size = (picture.shape[1], picture.shape[0])
    pixels: NDArray[Any] = picture if ticket.deep is None else _with_depth(ticket, picture, space)
    if not alpha or ticket.alpha is None:
        return pixels
    layer = ticket.alpha
    if layer.shape != picture.shape[:2]:
        layer = np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC), layer.dtype)
    return np.dstack([pixels, layer])


def _with_depth(ticket: Ticket, picture: NDArray[np.uint8], space: WorkingSpace | None) -> NDArray[np.uint16]:
    deep, given = ticket.deep, ticket.frame.pixels
    assert deep is not None
    if picture.shape != deep.shape:
        # the kernel by which restored videos are enlarged, so that what is not restored comes out as untouched
        size = (picture.shape[1], picture.shape[0])
        deep = np.asarray(cv2.resize(deep, size, interpolation=cv2.INTER_LANCZOS4), np.uint16)
        given = np.asarray(cv2.resize(given, size, interpolation=cv2.INTER_LANCZOS4), np.uint8)
    out = deep.copy()
    changed = np.nonzero((picture != given).any(-1))
    new, old = (
        pixels[changed] * 257.0 if space is None else space.from_working(pixels[changed]) for pixels in (picture, given)
    )
    out[changed] = np.clip(deep[changed] + np.rint(new - old), 0, 65535).astype(np.uint16)
    return out


def output_error(path: Path, error: Exception) -> OutputError:
    """What FFmpeg or the system says when a file cannot be written, as a sentence."""
    full = getattr(error, "errno", None) == errno.ENOSPC
    return OutputError(f"{path} cannot be written: {'the disk is full; free some space' if full else error}")
