"""Joining finished segments with sound, subtitles, fonts, chapters and tags."""

from __future__ import annotations

import errno
import heapq
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.stream import Disposition

from ...errors import OutputError, VideoError
from ..atomic import publish
from .encode import Look
from .fields import Plan, Scan
from .job import sync
from .read import Timeline, first_frame, open_input, packets, video_stream
from .records import TARGET_FORMATS
from .run import output_error
from .tracks import (
    MUX_ERRORS,
    TIMECODE,
    Sink,
    Track,
    blamed,
    open_tracks,
    plan_tracks,
    portable,
    timecode_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from av.container import InputContainer, OutputContainer

    from .job import Job

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
_TRIAL_PACKETS = 400  # of all tracks together, before the first frame
# tags that MP4 and QuickTime have places for; all others need a list of keys, which fewer players read
_KEYS_WITH_A_PLACE = {
    *("title", "artist", "author", "album", "album_artist", "composer", "genre", "date", "creation_time", "comment"),
    *("copyright", "description", "synopsis", "lyrics", "keywords", "grouping", "compilation", "track", "disc"),
    *("show", "network", "season_number", "episode_id", "episode_sort", "media_type", "hd_video", "location"),
    *("sort_name", "sort_artist", "sort_album"),
}


def suffix_for(source: str | Path) -> str:
    """The suffix of a file that holds all of a video as it is: the source's own where it can be written, else `.mp4`,
    and `.mkv`, which holds most, when that would lose or convert something.

    Raises VideoError when the file is not a video.
    """
    file = Path(source)
    own = file.suffix.lower()
    with open_input(file) as container:
        stream = video_stream(container, file)
        frame = first_frame(container, stream, file)
        look = Look.of(stream, frame, Plan(Scan()), Fraction(1, 1000))
        kept, size = stream.index, (frame.width, frame.height)
    for suffix in dict.fromkeys([own if own in TARGET_FORMATS else ".mp4", ".mp4", ".mkv", ".mov"]):
        tracks = plan_tracks(file, kept, suffix, drop_place=False)
        if suffix == ".mp4" != own and any("(pcm_" in track.label for track in tracks):
            continue  # MP4 may hold PCM, but few players play it there
        if not look.losses(look.encoder(suffix, *size)) and all(track.note is None for track in tracks):
            return suffix
    return own if own in TARGET_FORMATS else ".mkv"


@dataclass(frozen=True, slots=True)
class Output:
    """How the output of a video is put together: the same way when it is tried and when it is made."""

    source: Path
    suffix: str
    look: Look
    tracks: list[Track]
    metadata: Mapping[str, str]
    drop_place: bool

    def check(self, sample: Path, trial: Path) -> None:
        """Write the output's beginning to `trial`, with all its streams: `sample` is a segment of the picture.

        Tracks that fit alone but not together take their next way. Raises OutputError when not even the picture fits.
        """

        def pictures(segment: InputContainer, stream: Any) -> Iterator[av.Packet[Any]]:
            for packet in segment.demux(segment.streams.video[0]):
                if packet.size:
                    packet.stream = stream
                    yield packet

        with av.open(str(sample)) as segment:
            size = segment.streams.video[0].width, segment.streams.video[0].height
        self._insist(
            trial, lambda: self._write(trial, sample, size, self.look.time_base, Fraction(0), pictures, _TRIAL_PACKETS)
        )

        self._read_back(trial)

    def _read_back(self, trial: Path) -> None:
        """Look whether covers and the languages of tracks, which a muxer leaves out without a word, are there."""
        with open_input(self.source) as original, av.open(str(trial)) as written:
            places = iter(stream for stream in written.streams if stream.type in {"audio", "subtitle"})
            for track in self.tracks:
                if track.way.how not in {"copy", "sound", "text"}:
                    continue
                stream = original.streams[track.index]
                if stream.disposition & Disposition.attached_pic:
                    if not any(s.disposition & Disposition.attached_pic for s in written.streams.video):
                        track.chosen = len(track.ways) - 1
                    continue
                place = next(places, None) if stream.type in {"audio", "subtitle"} else None
                if (
                    place is not None
                    and place.frames
                    and stream.language not in {None, "und"}
                    and place.language in {None, "und"}
                ):
                    track.lost = f"lost its language tag {stream.language!r}"

    def make(self, job: Job, target: Path, *, overwrite: bool) -> None:
        """Join everything and give it the target's name. A track that fails costs itself, never the picture: it takes
        its next way, and the joining starts again. Raises VideoError or OutputError; the segments stay."""
        if not job.parts:
            raise VideoError(f"{self.source}: no frame could be decoded; the file is truncated or damaged")
        first, last = job.segment(job.parts[0]), job.parts[-1]
        size, origin = (last.width, last.height), _origin(job, self.tracks)

        def pictures(_: InputContainer, stream: Any) -> Iterator[av.Packet[Any]]:
            return _video_packets(job, stream, origin)

        def write() -> None:
            self._write(job.result, first, size, job.time_base, origin, pictures)

        try:
            self._insist(target, write)
            sync(job.result)
            publish(job.result, target, overwrite=overwrite)
        except MUX_ERRORS as error:
            raise output_error(target, error) from error

    def _insist(self, path: Path, write: Callable[[], None]) -> None:
        """Write until it works: after each failure something that goes along takes its next way."""
        while True:
            try:
                return write()
            except MUX_ERRORS as error:
                if getattr(error, "errno", None) in _DISK_ERRORS or not self._give_way(error):
                    raise OutputError(f"{path} cannot be written: {error}") from error

    def _give_way(self, error: BaseException) -> bool:
        """Let the track that failed take its next way; where it is not known which, the timecode, else all."""
        index = getattr(error, "track_index", None)
        known = [track for track in self.tracks if track.index == index]
        codes = [track for track in self.tracks if track.index == TIMECODE and track.way.how == "tag"]
        gave_way = [track.give_way(error) for track in known or codes or self.tracks]
        return any(gave_way)

    def _write(
        self,
        target: Path,
        segment: Path,
        size: tuple[int, int],
        time_base: Fraction,
        origin: Fraction,
        pictures: Callable[[InputContainer, Any], Iterator[av.Packet[Any]]],
        side_packets: int | None = None,
    ) -> None:
        """Write the pictures and what goes along (of that at most so many packets), `origin` seconds earlier."""
        with open_input(self.source) as original, av.open(str(segment)) as first:
            tags = portable(original.metadata, drop_place=self.drop_place)
            options = self._options(tags, time_base)
            with av.open(str(target), "w", format=TARGET_FORMATS[self.suffix], options=options) as out:
                video = self._add_video(out, first, original, size, time_base)
                sinks = open_tracks(original, out, self.tracks, origin)
                out.metadata.update({**tags, **self.metadata})
                out.set_chapters(_chapters(original, origin))
                moving: Iterator[tuple[int | None, av.Packet[Any]]] = ((None, p) for p in pictures(first, video))
                along = islice(_side_packets(original, sinks), side_packets)
                for index, packet in heapq.merge(moving, along, key=lambda item: _seconds(item[1])):
                    try:
                        out.mux(packet)
                    except MUX_ERRORS as error:
                        raise blamed(error, index) from None

    def _options(self, tags: Mapping[str, str], time_base: Fraction) -> dict[str, str]:
        if self.suffix in {".mkv", ".webm"}:
            return {}
        # edit lists count in the movie's time scale: with the video's own, the first frame's time is exact, too
        unplaced = {key.split("-")[0] for key in tags} - _KEYS_WITH_A_PLACE
        flags = "+faststart" + ("+use_metadata_tags" if unplaced else "")
        return {"movie_timescale": str(time_base.denominator), "movflags": flags, "write_tmcd": "1"}

    def _add_video(
        self,
        out: OutputContainer,
        first: InputContainer,
        original: InputContainer,
        size: tuple[int, int],
        base: Fraction,
    ) -> Any:
        encoder = self.look.encoder(self.suffix, *size)
        video: Any = out.add_stream_from_template(first.streams.video[0])
        video.time_base = base
        video.codec_context.framerate = self.look.rate  # which timecodes are counted by
        if self.look.aspect:
            video.codec_context.sample_aspect_ratio = self.look.aspect
        if encoder.codec == "libx265" and out.format.name in {"mp4", "mov"}:
            video.codec_context.codec_tag = "hvc1"  # the tag Apple's players ask for
        if encoder.codec == "libvpx-vp9" and encoder.alpha:
            video.metadata["alpha_mode"] = "1"
        video.metadata.update(portable(video_stream(original, self.source).metadata, drop_place=self.drop_place))
        code = timecode_of(original)
        if code and any(track.index == TIMECODE and track.way.how == "tag" for track in self.tracks):
            video.metadata["timecode"] = code
        return video


def _origin(job: Job, tracks: list[Track]) -> Fraction:
    """The earliest time of all streams, which becomes zero. Times below zero stay: decoders need that sound."""
    starts = [track.start for track in tracks if track.start is not None]
    return max(Fraction(0), min([job.parts[0].pts[0] * job.time_base, *starts]))


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
    timeline = Timeline(original)
    # the picture's packets only tell the time, where it may break
    watched = list(original.streams.video[:1]) if timeline.watched else []
    for packet in packets(original, *watched, *(original.streams[index] for index in sinks)):
        index, shift = packet.stream.index, timeline.shift_packet(packet)
        if index in sinks:
            yield from _named(index, sinks[index].feed(packet, shift))
    for index, sink in sinks.items():
        yield from _named(index, sink.flush())


def _named(index: int, items: Iterator[av.Packet[Any]]) -> Iterator[tuple[int, av.Packet[Any]]]:
    try:
        for packet in items:
            yield index, packet
    except MUX_ERRORS as error:
        raise blamed(error, index) from None
