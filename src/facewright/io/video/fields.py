"""Fields: whether a video is interlaced or telecined, and making whole pictures of its fields."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

import av
import av.error
from av.filter import Graph

from .read import Shot, frame_rate, open_input, read_shots, stream_seconds, video_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .records import Deinterlace

Order = Literal["tff", "bff"]  # top or bottom field first

# AVFieldOrder of a stream: what its header says of the order of display
_HEADER_ORDERS: dict[int, Order] = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}
_STRETCHES = (0.0, 0.3, 0.7)  # where in the video it is looked at
_LOOK = 40  # frames looked at in each stretch
_FEWEST = 8  # so many judged frames are needed against what the flags say
_PULLDOWN = (Fraction(30000, 1001), Fraction(30))


@dataclass(frozen=True, slots=True)
class Scan:
    """How a video was scanned: its kind, which field comes first (None when that cannot be told from outside the
    frames), and whether the frames' own flags tell that."""

    kind: Literal["progressive", "interlaced", "telecined"] = "progressive"
    order: Order | None = None
    flagged: bool = False


def inspect(path: Path) -> Scan:
    """Judge a video by its flags and by what FFmpeg's field detector (idet) says of three stretches of it.

    Flags alone do not tell: captures of tapes lack them, and progressive video is often stored as interlaced. Telecine
    is recognised by its rhythm: at 30 frames per second every fifth frame repeats a top field and every fifth another
    a bottom field.
    """
    seen: Counter[str] = Counter()
    with open_input(path) as container:
        stream = video_stream(container, path)
        length = stream_seconds(stream) or float(container.duration or 0) / av.time_base
        rate = frame_rate(stream)
        base = stream.time_base or Fraction(1)
        for share in _STRETCHES:
            if share and length * rate < 4 * _LOOK:
                break
            if share:
                try:
                    container.seek(int((stream.start_time or 0) + share * length / base), stream=stream)
                except av.error.FFmpegError:
                    break
            seen.update(_watch(islice(read_shots(container, stream), _LOOK), base))
        header = _HEADER_ORDERS.get(stream.codec_context.field_order)
        if header is None and stream.codec_context.codec.canonical_name == "dvvideo":
            header = "bff"  # IEC 61834 knows no other
    return _judge(seen, rate, header)


def _watch(shots: Iterator[Shot], base: Fraction) -> Counter[str]:
    seen: Counter[str] = Counter()

    def note_flags() -> Iterator[Shot]:
        for number, shot in enumerate(shots):
            seen["frames"] += 1
            seen["flagged"] += shot.frame.interlaced_frame
            yield Shot(shot.frame, number)

    try:
        for shot in _Chain((("idet", ""),), base, Fraction(25)).run(note_flags()):
            tags = shot.frame.metadata
            seen[tags.get("lavfi.idet.single.current_frame", "undetermined")] += 1
            seen["repeated " + tags.get("lavfi.idet.repeated.current_frame", "neither")] += 1
    except av.error.FFmpegError:  # a pixel format the detector does not take
        pass
    return seen


def _judge(seen: Counter[str], rate: Fraction, header: Order | None) -> Scan:
    combed = seen["tff"] + seen["bff"]
    order = header
    if seen["tff"] != seen["bff"]:
        order = "tff" if seen["tff"] > seen["bff"] else "bff"
    flagged = seen["flagged"] > 0
    pulled = min(seen["repeated top"], seen["repeated bottom"]) >= 0.1 * seen["frames"] >= 1
    if pulled and combed >= 0.2 * seen["frames"] and any(abs(rate - known) < 0.1 for known in _PULLDOWN):
        return Scan("telecined", order, flagged)
    if flagged:
        whole = seen["progressive"] >= max(_FEWEST, 10 * combed)
        return Scan("progressive" if whole else "interlaced", order, flagged)
    if combed >= max(_FEWEST, seen["progressive"]) and max(seen["tff"], seen["bff"]) >= 0.8 * combed:
        return Scan("interlaced", order)
    return Scan()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to the fields: FFmpeg filters with arguments, output frames per frame, and what people are told.

    `kept` says that the fields of an interlaced video go through as they are, in the order of `scan`.
    """

    scan: Scan
    filters: tuple[tuple[str, str], ...] = ()
    frames_per_frame: Fraction = Fraction(1)
    note: str | None = None
    kept: bool = False


def plan_fields(scan: Scan, wish: Deinterlace) -> Plan:
    """The treatment of a video by option: `auto` makes whole frames where needed, `frame` and `field` always do, one
    per frame or one per field, `off` leaves fields alone."""
    combed = scan.kind != "progressive"
    if wish == "off":
        note = f"the video is {scan.kind}; its fields were kept, as asked, and faces may show combs" if combed else None
        return Plan(scan, note=note, kept=combed)
    if wish == "auto" and not combed:
        return Plan(scan)
    if wish == "auto" and scan.kind == "telecined":
        note = "the video is telecined (24 film pictures spread over 30 frames): the 24 pictures were taken back"
        return Plan(
            scan, _inverse_telecine(scan), Fraction(4, 5), note + "; deinterlace by frame or switch it off to keep 30"
        )
    only = "interlaced" if scan.flagged and wish == "auto" else "all"
    parity = "auto" if scan.flagged or not scan.order else scan.order
    mode = "send_field" if wish == "field" else "send_frame"
    filters = (("bwdif", f"mode={mode}:parity={parity}:deint={only}"),)
    first = {"tff": ", top field first", "bff": ", bottom field first", None: ""}[scan.order]
    what = f"{scan.kind}{first}" if combed else "progressive, by what was seen of it"
    rate = "one picture per field" if wish == "field" else "one picture per frame"
    note = f"the video is {what}: it was deinterlaced (bwdif), {rate}"
    return Plan(scan, filters, Fraction(2 if wish == "field" else 1), note)


def _inverse_telecine(scan: Scan) -> tuple[tuple[str, str], ...]:
    # pictures whose fields have no partner (after an edit) are deinterlaced before every fifth is dropped
    return (
        ("fieldmatch", f"order={scan.order or 'auto'}:combmatch=full"),
        ("bwdif", f"mode=send_frame:parity={scan.order or 'auto'}:deint=interlaced"),
        ("decimate", ""),
    )


def whole_frames(shots: Iterator[Shot], base: Fraction, rate: Fraction, plan: Plan) -> tuple[Iterator[Shot], Fraction]:
    """Shots with times in units of `base`, `rate` to the second, through the plan's filters, and the time base of what
    comes out."""
    if not plan.filters:
        return shots, base
    pipeline = _Chain(plan.filters, base, rate)
    filtered = pipeline.run(shots)
    first = next(filtered, None)
    if first is None:
        return filtered, base
    return chain([first], filtered), pipeline.base


class _Chain:
    """A chain of FFmpeg's video filters. It is built anew when the size or format of the frames changes."""

    def __init__(self, filters: tuple[tuple[str, str], ...], base: Fraction, rate: Fraction) -> None:
        self.filters, self.source_base, self.base, self.rate = filters, base, base, rate
        self._graph: Graph | None = None
        self._shape: tuple[Any, ...] = ()
        self._damaged: set[Fraction] = set()
        self._fixed = False

    def run(self, shots: Iterator[Shot]) -> Iterator[Shot]:
        for shot in shots:
            frame = shot.frame
            shape = (frame.width, frame.height, frame.format.name)
            if self._graph is None or shape != self._shape:
                yield from self._drain()
                self._graph, self._shape = self._build(frame), shape
            assert shot.pts is not None
            if shot.damaged:
                self._damaged.add(shot.pts * self.source_base)
            frame.pts, frame.time_base = shot.pts, self.source_base
            self._graph.push(frame)
            yield from self._pull()
        yield from self._drain()

    def _build(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        facts = {
            "video_size": f"{frame.width}x{frame.height}",
            "pix_fmt": frame.format.name,
            "time_base": self.source_base,
            "frame_rate": self.rate,  # decimate asks for it
            "colorspace": int(frame.colorspace),
            "range": int(frame.color_range),
        }
        source = graph.add("buffer", ":".join(f"{name}={value}" for name, value in facts.items()))
        nodes = [graph.add(name, arguments or None) for name, arguments in self.filters]
        graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
        return graph

    def _drain(self) -> Iterator[Shot]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()

    def _pull(self) -> Iterator[Shot]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            own = frame.time_base or self.base
            if not self._fixed:
                self.base, self._fixed = own, True
            time = (frame.pts or 0) * own
            yield Shot(frame, round(time / self.base), damaged=time in self._damaged)
