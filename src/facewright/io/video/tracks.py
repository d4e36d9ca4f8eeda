"""What goes along with the picture: sound, subtitles, fonts, covers, timecodes and other data.

Each track of the source gets a list of ways into the target, best first: as it is, converted, attached, or not at all.
A way is taken only after it was tried with the track's own first packets, so that no track can fail the video at its
end; if one still does, `mux` takes its next way.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import av
import av.error
from av.filter import Graph
from av.stream import Disposition

from .read import Timeline, open_input, packets
from .records import TARGET_FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from av.container import InputContainer, OutputContainer

CONTAINER_NAMES = {".mp4": "MP4", ".m4v": "MP4", ".mov": "QuickTime", ".mkv": "Matroska", ".webm": "WebM"}
MUX_ERRORS = (av.error.FFmpegError, ValueError, OSError)
"""What PyAV raises when a track does not fit."""

TIMECODE = -1
"""The index of the timecode, which is no track of its own in every container."""

_TRIAL_PACKETS, _TRIAL_BYTES = 60, 32 << 20
_SOUND_FRAME = {"aac": 1024, "libopus": 960}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_TEXT_SUBTITLES = {".mp4": "mov_text", ".m4v": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
_PICTURE_SUBTITLES = {"hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle", "xsub"}
_PLACE_WORDS = ("location", "gps", "iso6709", "latitude", "longitude", "coordinates", "geotag", "\u00a9xyz")
# drones write their position into subtitles: "GPS(11.5755,48.1374,18)", "[latitude: 48.1374]"
_PLACE_TEXT = re.compile(rb"(?i)\b(gps|lat|latitude|lon|long|longitude|longtitude)\s*[:=(\[]+\s*[-+]?\d")
_COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_QUICKTIME_LANGUAGES = {
    "bod": "tib",
    "cym": "wel",
    "cze": "ces",
    "deu": "ger",
    "ell": "gre",
    "eus": "baq",
    "fas": "per",
    "fre": "fra",
    "hye": "arm",
    "isl": "ice",
    "kat": "geo",
    "mkd": "mac",
    "msa": "may",
    "mya": "bur",
    "nld": "dut",
    "rum": "ron",
    "slo": "slk",
    "sqi": "alb",
    "zho": "chi",
}
_TECHNICAL_TAGS = {
    "alpha_mode",
    "bps",
    "compatible_brands",
    "creation_software",
    "duration",
    "encoder",
    "major_brand",
    "minor_version",
    "number_of_frames",
    "timecode",
    "vendor_id",
}

How = Literal["copy", "sound", "text", "attach", "tag", "chapters", "drop"]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of a track into the target: how, with which encoder, in which channel layout, and what people are told:
    what was done, and why if not for the reason that the better ways failed."""

    how: How
    codec: str = ""
    layout: str = ""
    done: str | None = None
    why: str = ""


_PRIVATE = Way("drop", done="was left out", why="it may say where the video was taken")


@dataclass(slots=True)
class Track:
    """A track of the source, the ways it could go, and the one it goes; `start` is its first time in seconds."""

    index: int
    label: str
    reason: str
    ways: list[Way]
    tags: dict[str, str] = field(default_factory=dict)
    start: Fraction | None = None
    chosen: int = 0
    lost: str = ""

    @property
    def way(self) -> Way:
        return self.ways[self.chosen]

    @property
    def note(self) -> str | None:
        """What became of the track and why, None when it is kept as it is."""
        if self.way.done is None:
            return f"{self.label} {self.lost}: {self.reason}" if self.lost else None
        return f"{self.label} {self.way.done}: {self.way.why or self.reason}"

    def give_way(self, error: BaseException) -> bool:
        """Take the next way because of an error; False when there is none."""
        if self.chosen + 1 == len(self.ways):
            return False
        self.chosen += 1
        self.reason = f"as it is it could not be written ({_complaint(error)})"
        return True


def plan_tracks(source: Path, kept: int, suffix: str, *, drop_place: bool) -> list[Track]:
    """All tracks of a video but that of the picture, each with a way that was tried.

    `kept` is the picture's stream index, `drop_place` leaves out tracks that may say where it was taken.
    """
    with open_input(source) as original, av.open(io.BytesIO(), "w", format=TARGET_FORMATS[suffix]) as out:
        tracks = [
            _track(original, stream, suffix, out.supported_codecs, drop_place=drop_place)
            for stream in original.streams
            if stream.index != kept
        ]
        if timecode_of(original):
            reason = f"{CONTAINER_NAMES[suffix]} cannot hold it"
            tracks.append(Track(TIMECODE, "timecode", reason, [Way("tag"), Way("drop", done="was left out")]))
    for track in tracks:
        while True:
            try:
                track.start = _try(source, track, suffix)
                break
            except MUX_ERRORS as error:
                if not track.give_way(error):
                    raise
    return tracks


def _track(original: InputContainer, stream: Any, suffix: str, supported: set[str], *, drop_place: bool) -> Track:
    context = stream.codec_context
    codec = context.codec.canonical_name if context else getattr(stream, "name", None) or "unknown"
    reason = f"{CONTAINER_NAMES[suffix]} cannot hold it"
    tags = _track_tags(stream, suffix, drop_place=drop_place)
    track = Track(stream.index, f"{stream.type} track {stream.index} ({codec})", reason, [], tags)
    fits = bool(context) and codec in supported
    if stream.type == "audio" and context:
        track.ways = _sound_ways(stream, suffix, fits=fits)
    elif stream.type == "subtitle" and drop_place and _tells_place(original, stream):
        track.ways = [_PRIVATE]
    elif stream.type == "subtitle" and context:
        track.ways = _subtitle_ways(codec, suffix, fits=fits)
    elif stream.type == "video" and stream.disposition & Disposition.attached_pic and context:
        track.label = f"cover picture {stream.index} ({codec})"
        track.ways = _cover_ways(codec, suffix, fits=fits)
    elif stream.type == "video":
        track.label = f"second video {stream.index} ({codec})"
        track.ways = [Way("copy", done="was copied as it is", why="only the first video is restored")] if fits else []
    elif stream.type == "attachment":
        track.label = f"attachment {stream.metadata.get('filename', stream.index)!r}"
        track.ways = [Way("attach")] if suffix == ".mkv" else []
    elif "timecode" in stream.metadata and stream.type == "data":
        track.ways = [Way("tag")]
    elif stream.type == "data" and _holds_chapters(original, stream):
        track.ways = [Way("chapters")]
    elif stream.type == "data" and drop_place:
        track.ways = [_PRIVATE]
    elif stream.type == "data" and not context:
        track.ways = [Way("copy")]
    track.ways.append(Way("drop", done="was left out"))
    return track


def timecode_of(original: InputContainer) -> str | None:
    """The video's start timecode: a tag of the file, of a stream, or a track of its own."""
    for metadata in (*(stream.metadata for stream in original.streams), original.metadata):
        for key, value in metadata.items():
            if key.lower() == "timecode":
                return str(value)
    return None


def blamed(error: BaseException, index: int | None) -> BaseException:
    """The error with the track that is to blame."""
    if index is not None:
        error.track_index = index  # type: ignore[attr-defined]
    return error


def _tells_place(original: InputContainer, stream: Any) -> bool:
    """Whether one of the first subtitles gives coordinates."""
    with open_input_again(original) as again:
        first = islice((p for p in packets(again, again.streams[stream.index]) if p.size), _TRIAL_PACKETS)
        return any(_PLACE_TEXT.search(bytes(packet)) for packet in first)


def _holds_chapters(original: InputContainer, stream: Any) -> bool:
    """Whether a data track is the text of the chapters, as QuickTime files store them: one sample for each."""
    chapters = original.chapters()
    return bool(chapters) and stream.name == "bin_data" and stream.frames == len(chapters)


def _sound_ways(stream: Any, suffix: str, *, fits: bool) -> list[Way]:
    codec = "libopus" if suffix == ".webm" else "aac"
    name = "Opus" if codec == "libopus" else "AAC"
    channels = stream.codec_context.channels
    ways = [Way("copy")] if fits else []
    if channels in _LAYOUTS:
        ways.append(Way("sound", codec, _LAYOUTS[channels], f"was encoded anew as {name}"))
    if channels > 2:
        ways.append(Way("sound", codec, "stereo", f"was mixed down to stereo and encoded anew as {name}"))
    return ways


def _subtitle_ways(codec: str, suffix: str, *, fits: bool) -> list[Way]:
    ways = [Way("copy")] if fits else []
    if codec in _PICTURE_SUBTITLES:
        return ways
    text = _TEXT_SUBTITLES[suffix]
    lost = " and lost its styles" if codec in {"ass", "ssa"} else ""
    return [*ways, Way("text", text, done=f"was converted to {text}{lost}")]


def _cover_ways(codec: str, suffix: str, *, fits: bool) -> list[Way]:
    if suffix == ".mkv" and codec in _COVER_TYPES:
        return [Way("attach")]
    return [Way("copy")] if fits and suffix != ".mkv" else []


def _try(source: Path, track: Track, suffix: str) -> Fraction | None:
    """Write the first packets of a track alone into the target's format; returns its first time in seconds."""
    with open_input(source) as original:
        with av.open(io.BytesIO(), "w", format=TARGET_FORMATS[suffix]) as out:
            sinks = open_tracks(original, out, [track])
            timeline, start, count, read = Timeline(original), None, 0, 0
            for packet in packets(original):
                read += packet.size
                shift = timeline.shift_packet(packet)
                if packet.stream.index == track.index and packet.size:
                    count += 1
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    if start is None and stamp is not None:
                        start = stamp * packet.time_base
                    for sink in sinks.values():
                        out.mux(list(sink.feed(packet, shift)))
                if count >= _TRIAL_PACKETS or read > _TRIAL_BYTES or not (sinks or start is None):
                    break
            for sink in sinks.values():
                out.mux(list(sink.flush()))
        return start if track.way.how in {"copy", "sound", "text"} else None


@dataclass(slots=True)
class Sink:
    """Takes the packets of a source's track, `shift` seconds later, and gives those of the target's, `origin` seconds
    earlier."""

    stream: Any
    origin: Fraction
    _last: int | None = field(default=None, init=False)
    _guess: int | None = field(default=None, init=False)

    def feed(self, packet: av.Packet[Any], shift: Fraction = Fraction(0)) -> Iterator[av.Packet[Any]]:
        if not packet.size:
            return
        if self.stream.disposition & Disposition.attached_pic:
            packet.pts = packet.dts = 0
        elif packet.dts is None and packet.pts is None:
            return
        else:
            self._place(packet, shift)
        packet.stream = self.stream
        yield packet

    def flush(self) -> Iterator[av.Packet[Any]]:
        return iter(())

    def _place(self, packet: av.Packet[Any], shift: Fraction) -> None:
        """Move a packet's times: from the clock of the recording to that of the video, and never back."""
        base = packet.time_base
        dts = packet.dts if packet.dts is not None else self._decoding_time(packet)
        moved = dts + round((shift - self.origin) / base)
        if self.stream.type == "audio" and self._last is not None:
            least = math.ceil((self.stream.time_base or base) / base)  # one tick of the target's clock
            moved = max(moved, self._last + max(1, least))
        self._last = moved
        if packet.pts is not None:
            packet.pts = max(moved, packet.pts + moved - dts)
        packet.dts = moved

    def _decoding_time(self, packet: av.Packet[Any]) -> int:
        """Matroska gives the first pictures of a video with B-frames only times of presentation."""
        assert packet.pts is not None
        if self.stream.type != "video":
            return packet.pts
        step = packet.duration or 1
        self._guess = packet.pts - 2 * step if self._guess is None else min(packet.pts, self._guess + step)
        return self._guess


@dataclass(slots=True)
class SoundSink(Sink):
    """Encodes sound anew; gaps are filled with silence, so that it stays with the picture."""

    decoder: Any
    way: Way
    rate: int
    _graph: Graph | None = field(default=None, init=False)

    def feed(self, packet: av.Packet[Any], shift: Fraction = Fraction(0)) -> Iterator[av.Packet[Any]]:
        if not packet.size:
            return
        if packet.dts is not None or packet.pts is not None:
            self._place(packet, shift)
        try:
            frames = self.decoder.decode(packet)
        except av.error.FFmpegError:
            return
        for frame in frames:
            yield from self._encode(frame)

    def flush(self) -> Iterator[av.Packet[Any]]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
        yield from self.stream.encode(None)

    def _encode(self, frame: Any) -> Iterator[av.Packet[Any]]:
        if self._graph is None:
            self._graph = self._build(frame)
        self._graph.push(frame)
        yield from self._pull()

    def _build(self, frame: Any) -> Graph:
        known = "channels" not in frame.layout.name
        graph = Graph()
        graph.threads = 1
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name if known else None,
            channels=None if known else frame.layout.nb_channels,
            time_base=frame.time_base,
        )
        target = self.stream.codec_context
        formats = f"sample_fmts={target.format.name}:sample_rates={self.rate}:channel_layouts={self.way.layout}"
        nodes = [graph.add("aresample", "async=1000:min_hard_comp=0.05"), graph.add("aformat", formats)]
        nodes.append(graph.add("asetnsamples", f"n={_SOUND_FRAME[self.way.codec]}:p=0"))
        graph.link_nodes(source, *nodes, graph.add("abuffersink")).configure()
        return graph

    def _pull(self) -> Iterator[av.Packet[Any]]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield from self.stream.encode(frame)


@dataclass(slots=True)
class TextSink(Sink):
    """Converts text subtitles."""

    decoder: Any

    def feed(self, packet: av.Packet[Any], shift: Fraction = Fraction(0)) -> Iterator[av.Packet[Any]]:
        if not packet.size or packet.pts is None:
            return
        self._place(packet, shift)
        pts, duration, base = packet.pts, packet.duration, packet.time_base
        try:
            subtitle = self.decoder.decode2(packet)
        except av.error.FFmpegError:
            return
        if subtitle is None or not len(subtitle):
            return
        converted = self.stream.codec_context.encode_subtitle(subtitle)
        converted.pts = converted.dts = pts
        converted.duration, converted.time_base, converted.stream = duration, base, self.stream
        yield converted


def open_tracks(
    original: InputContainer, out: OutputContainer, tracks: list[Track], origin: Fraction = Fraction(0)
) -> dict[int, Sink]:
    """Add the tracks to an output; returns source stream index → where its packets go.

    Raises one of `MUX_ERRORS`, with the track's index in `track_index` where one is to blame.
    """
    sinks: dict[int, Sink] = {}
    for track in tracks:
        if track.index == TIMECODE:
            continue
        stream = original.streams[track.index]
        try:
            sink = _open_track(stream, out, track, origin)
            if track.way.how == "attach":
                _attach(original, stream, out)
        except MUX_ERRORS as error:
            raise blamed(error, track.index) from None
        if sink is not None:
            sinks[track.index] = sink
            sink.stream.metadata.update(track.tags)
            sink.stream.disposition = stream.disposition
    return sinks


def _open_track(stream: Any, out: OutputContainer, track: Track, origin: Fraction) -> Sink | None:
    way = track.way
    if way.how == "copy":
        copied: Any = out.add_stream_from_template(stream)
        if stream.type == "audio" and "channels" in stream.layout.name:
            # camera AVIs say only how many channels there are; some formats want to know which
            copied.codec_context.layout = _LAYOUTS.get(stream.codec_context.channels, stream.layout.name)
        return Sink(copied, origin)
    if way.how == "sound":
        rate = _sound_rate(way.codec, stream.rate)
        encoded: Any = out.add_stream(way.codec, rate=rate)
        encoded.layout = way.layout
        encoded.bit_rate = 96000 * max(2, encoded.codec_context.channels)
        return SoundSink(encoded, origin, stream.codec_context, way, rate)
    if way.how == "text":
        encoded = out.add_stream(way.codec)
        stream.codec_context.open(strict=False)
        encoded.codec_context.subtitle_header = stream.codec_context.subtitle_header
        encoded.codec_context.time_base = Fraction(1, 1000)
        return TextSink(encoded, origin, stream.codec_context)
    return None


def _sound_rate(codec: str, rate: int) -> int:
    known = av.Codec(codec, "w").audio_rates or [48000]
    return rate if rate in known else min((r for r in known if r >= rate), default=max(known))


def _attach(original: InputContainer, stream: Any, out: OutputContainer) -> None:
    if stream.type == "attachment":
        name = stream.metadata.get("filename") or f"attachment{stream.index}"
        out.add_attachment(
            name, stream.mimetype or stream.metadata.get("mimetype", "application/octet-stream"), stream.data
        )
        return
    name, kind = _COVER_TYPES[stream.codec_context.codec.canonical_name]
    with open_input_again(original) as again:
        for packet in again.demux(again.streams[stream.index]):
            if packet.size:
                out.add_attachment(name, kind, bytes(packet))
                return


def open_input_again(original: InputContainer) -> InputContainer:
    """The same file once more, so that looking for one packet does not move the first reader."""
    return av.open(original.name, metadata_errors="replace")


def portable(metadata: Mapping[str, str], *, drop_place: bool = False) -> dict[str, str]:
    """Tags without those that describe the old file rather than the video, and, if wished, those of its place."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _TECHNICAL_TAGS
        and not key.startswith(("_STATISTICS", "NUMBER_OF_"))
        and not (drop_place and any(word in key.lower() for word in _PLACE_WORDS))
    }


def _track_tags(stream: Any, suffix: str, *, drop_place: bool) -> dict[str, str]:
    """A track's tags; QuickTime's list of languages has the bibliographic codes of ISO 639-2."""
    tags = portable(stream.metadata, drop_place=drop_place)
    if suffix == ".mov" and "language" in tags:
        tags["language"] = _QUICKTIME_LANGUAGES.get(tags["language"], tags["language"])
    return tags


def _complaint(error: BaseException) -> str:
    """What FFmpeg logged about the failure, else what it is called."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    said = re.search(r"last error log: (?:\[[^\]]*\] *)?(.+)", line)
    return (said[1] if said else line).strip().rstrip(".)")[:160]
