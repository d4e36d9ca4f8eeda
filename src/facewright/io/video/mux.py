"""Joining finished segments with sound, subtitles, fonts, chapters and tags."""

from __future__ import annotations

import errno
import heapq
import io
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error

from ...errors import OutputError, VideoError
from ..atomic import publish
from .encode import Look
from .fields import Plan, Scan
from .job import sync
from .read import open_input, packets, read_shots, video_stream
from .records import TARGET_FORMATS
from .run import output_error
from .tracks import MUX_ERRORS, Sink, Track, open_tracks, plan_tracks, portable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from av.container import InputContainer, OutputContainer

    from .encode import Encoder
    from .job import Job

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
_KEYS_OF_PHONES = ("com.apple.", "com.android.")


def suffix_for(source: str | Path) -> str:
    """The suffix of a file that holds all of a film as it is: the source's own where it can be written, else `.mp4`,
    and `.mkv`, which holds most, when that would lose or convert something.

    Raises VideoError when the file is no video.
    """
    file = Path(source)
    own = file.suffix.lower()
    with open_input(file) as container:
        stream = video_stream(container, file)
        shot = next(read_shots(container, stream), None)
        if shot is None:
            raise VideoError(f"{file}: no frame could be decoded; the file is truncated or damaged")
        look = Look.of(stream, shot.frame, Plan(Scan()), Fraction(1, 1000))
        kept, size = stream.index, (shot.frame.width, shot.frame.height)
    for suffix in dict.fromkeys([own if own in TARGET_FORMATS else ".mp4", ".mp4", ".mkv", ".mov"]):
        tracks = plan_tracks(file, kept, suffix, drop_place=False)
        if not look.losses(look.encoder(suffix, *size)) and all(track.note is None for track in tracks):
            return suffix
    return own if own in TARGET_FORMATS else ".mkv"


def check_output(source: Path, tracks: list[Track], suffix: str, sample: Path) -> None:
    """Open the output with all its streams and write its beginning, to memory: `sample` is a segment of the picture.

    Tracks that fit alone but not together take their next way. Raises OutputError when not even the picture fits.
    """
    while True:
        try:
            with open_input(source) as original, av.open(str(sample)) as segment:
                target = io.BytesIO()
                with av.open(target, "w", format=TARGET_FORMATS[suffix]) as out:
                    video = out.add_stream_from_template(segment.streams.video[0])
                    open_tracks(original, out, tracks, suffix)
                    for packet in segment.demux(segment.streams.video[0]):
                        if packet.size:
                            packet.stream = video
                            out.mux(packet)
            return
        except MUX_ERRORS as error:
            _blame(tracks, error, sample)


def finish(
    job: Job,
    source: Path,
    target: Path,
    look: Look,
    tracks: list[Track],
    *,
    metadata: Mapping[str, str],
    drop_place: bool,
    overwrite: bool,
) -> None:
    """Join everything and give it the target's name. A track that fails costs itself, never the picture: it takes its
    next way, and the joining starts again. Raises VideoError or OutputError; the segments stay."""
    if not job.parts:
        raise VideoError(f"{source}: no frame could be decoded; the file is truncated or damaged")
    try:
        while True:
            try:
                with open_input(source) as original:
                    _join(job, original, source, look, tracks, dict(metadata), drop_place=drop_place)
                break
            except MUX_ERRORS as error:
                if getattr(error, "errno", None) in _DISK_ERRORS:
                    raise
                _blame(tracks, error, target)
        sync(job.result)
        publish(job.result, target, overwrite=overwrite)
    except MUX_ERRORS as error:
        raise output_error(target, error) from error


def _blame(tracks: list[Track], error: BaseException, path: Path) -> None:
    """Let the track that failed take its next way, or all, when it is not known which; raise if that is no help."""
    index = getattr(error, "track_index", None)
    suspects = [track for track in tracks if track.index == index] or tracks
    gave_way = [track.give_way(error) for track in suspects]
    if not any(gave_way):
        raise OutputError(f"{path} cannot be written: {error}") from error


def _join(
    job: Job,
    original: InputContainer,
    source: Path,
    look: Look,
    tracks: list[Track],
    metadata: dict[str, str],
    *,
    drop_place: bool,
) -> None:
    kept = video_stream(original, source)
    time_base = job.time_base
    origin = _origin(job, tracks)
    tags = portable(original.metadata, drop_place=drop_place)
    options = {}
    if job.suffix not in {".mkv", ".webm"}:
        # edit lists count in the movie's time scale: with the video's own, the first frame's time is exact, too
        flags = "+faststart" + ("+use_metadata_tags" if any(k.startswith(_KEYS_OF_PHONES) for k in tags) else "")
        options = {"movie_timescale": str(time_base.denominator), "movflags": flags, "write_tmcd": "1"}
    with (
        av.open(str(job.segment(job.parts[0]))) as first,
        av.open(str(job.result), "w", format=TARGET_FORMATS[job.suffix], options=options) as out,
    ):
        last = job.parts[-1]
        video = _add_video(out, first, look, look.encoder(job.suffix, last.width, last.height), time_base)
        video.metadata.update(portable(kept.metadata, drop_place=drop_place))
        video.metadata.update(_timecode(original, tracks))
        sinks = open_tracks(original, out, tracks, job.suffix, origin)
        out.metadata.update({**tags, **metadata})
        out.set_chapters(_chapters(original, origin))
        pictures = ((None, packet) for packet in _video_packets(job, video, origin))
        for index, packet in heapq.merge(pictures, _side_packets(original, sinks), key=lambda item: _seconds(item[1])):
            try:
                out.mux(packet)
            except MUX_ERRORS as error:
                if index is not None:
                    error.track_index = index  # type: ignore[union-attr]
                raise


def _add_video(out: OutputContainer, first: InputContainer, look: Look, encoder: Encoder, time_base: Fraction) -> Any:
    video: Any = out.add_stream_from_template(first.streams.video[0])
    video.time_base = time_base
    if look.aspect:
        video.codec_context.sample_aspect_ratio = look.aspect
    if encoder.codec == "libx265" and out.format.name in {"mp4", "mov"}:
        video.codec_context.codec_tag = "hvc1"  # the tag Apple's players ask for
    if encoder.codec == "libvpx-vp9" and encoder.alpha:
        video.metadata["alpha_mode"] = "1"
    return video


def _origin(job: Job, tracks: list[Track]) -> Fraction:
    """The earliest time of all streams, which becomes zero. Times below zero stay: decoders need that sound."""
    starts = [track.start for track in tracks if track.start is not None]
    return max(Fraction(0), min([job.parts[0].pts[0] * job.time_base, *starts]))


def _timecode(original: InputContainer, tracks: list[Track]) -> dict[str, str]:
    """The start timecode of a track of its own, as the tag from which such a track is written."""
    for track in tracks:
        if track.way.how == "tag":
            return {"timecode": original.streams[track.index].metadata["timecode"]}
    return {}


def _chapters(original: InputContainer, origin: Fraction) -> list[Any]:
    chapters = original.chapters()
    for chapter in chapters:
        shift = round(origin / (chapter["time_base"] or Fraction(1)))
        chapter["start"] = max(0, chapter["start"] - shift)
        chapter["end"] = max(chapter["start"], chapter["end"] - shift)
    return chapters


def _seconds(packet: av.Packet[Any]) -> float:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return float((stamp or 0) * packet.time_base)


def _video_packets(job: Job, stream: Any, origin: Fraction) -> Iterator[av.Packet[Any]]:
    """All segments' packets in order with the job's times, each as long as the time to the next."""
    shift = round(origin / job.time_base)
    times = chain.from_iterable(part.pts for part in job.parts)
    now = next(times)
    for part in job.parts:
        with av.open(str(job.segment(part))) as container:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:
                    continue
                following = next(times, now + job.parts[-1].last_duration)
                packet.time_base = job.time_base
                packet.pts = packet.dts = now - shift
                packet.duration = following - now
                packet.stream = stream
                now = following
                yield packet


def _side_packets(original: InputContainer, sinks: dict[int, Sink]) -> Iterator[tuple[int, av.Packet[Any]]]:
    if not sinks:
        return
    for packet in packets(original, *(original.streams[index] for index in sinks)):
        index = packet.stream.index
        yield from _named(index, sinks[index].feed(packet))
    for index, sink in sinks.items():
        yield from _named(index, sink.flush())


def _named(index: int, items: Iterator[av.Packet[Any]]) -> Iterator[tuple[int, av.Packet[Any]]]:
    try:
        for packet in items:
            yield index, packet
    except MUX_ERRORS as error:
        error.track_index = index  # type: ignore[union-attr]
        raise
