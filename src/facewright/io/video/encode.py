"""Encoding: which codec a video gets, and the writer of one segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
from av.filter import Graph

from ...processors import codec_threads
from .colour import Colour, bit_depth, display_matrix, has_alpha
from .hdr import HLG, PQ, Mastering, WorkingSpace
from .read import frame_rate

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    import numpy as np
    from av.container import OutputContainer
    from numpy.typing import NDArray

    from .fields import Plan
    from .records import Settings

_NAMES = {"libx264": "H.264", "libx265": "HEVC", "libvpx-vp9": "VP9", "prores_ks": "ProRes 4444"}
_TEN_BIT = {"yuv420p10le", "yuv422p10le", "yuv444p10le"}


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder of FFmpeg, its pixel format, and the format of the segments that carries all it makes."""

    codec: str
    pix_fmt: str
    segment_format: str

    @property
    def alpha(self) -> bool:
        return self.pix_fmt.startswith("yuva")

    @property
    def deep(self) -> bool:
        return self.pix_fmt.endswith("10le")

    @property
    def label(self) -> str:
        return _NAMES[self.codec]

    def options(self, settings: Settings, look: Look) -> dict[str, str]:
        """Options without reordering of frames."""
        if self.codec == "libx264":
            options = {"crf": str(settings.crf), "preset": settings.preset, "bf": "0"}
            if look.fields.kept:
                options |= {"flags": "+ildct+ilme", "x264-params": f"{look.fields.scan.order or 'tff'}=1"}
            return options
        if self.codec == "libx265":
            parameters = ["log-level=error", "bframes=0"]
            parameters += ["hdr10=1", "hdr10-opt=1"] if look.colour.transfer == PQ else []
            parameters += look.mastering.x265()
            # x265's documented default is 28 where x264's is 23: about the same look
            crf = min(51, settings.crf + 5)
            return {"crf": str(crf), "preset": settings.preset, "x265-params": ":".join(parameters)}
        if self.codec == "prores_ks":
            return {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
        options = {"crf": str(min(63, settings.crf + 10)), "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        return options | ({"auto-alt-ref": "0"} if self.alpha else {})


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What converting and encoding frames need to know about the video, from its first frame."""

    colour: Colour
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None
    source_format: str
    bits: int
    alpha: bool
    display_matrix: NDArray[np.int32] | None
    mastering: Mastering
    fields: Plan

    @classmethod
    def of(cls, stream: av.VideoStream, frame: av.VideoFrame, fields: Plan, time_base: Fraction) -> Look:
        matrix = display_matrix(frame)
        turned = matrix is not None and abs(int(matrix[0, 1])) > abs(int(matrix[0, 0]))
        aspect = stream.sample_aspect_ratio or None
        rate = frame_rate(stream)
        return cls(
            colour=Colour.of(frame),
            rate=rate * fields.frames_per_frame,
            time_base=time_base,
            aspect=1 / aspect if aspect and turned else aspect,
            source_format=frame.format.name,
            bits=bit_depth(frame),
            alpha=has_alpha(frame),
            display_matrix=matrix,
            mastering=Mastering.of(frame),
            fields=fields,
        )

    @property
    def hdr(self) -> bool:
        """Whether the video's signal is PQ or HLG."""
        return self.colour.transfer in {PQ, HLG}

    @property
    def deep(self) -> bool:
        """Whether frames are handled with 16 bits beside the eight the stage sees."""
        return self.bits > 8 or self.hdr

    @property
    def working_space(self) -> WorkingSpace | None:
        """The way to an ordinary screen, None when the video is for one."""
        if not self.hdr:
            return None
        return WorkingSpace(self.colour.transfer, self.colour.primaries, self.mastering.peak)

    def encoder(self, suffix: str, width: int, height: int) -> Encoder:
        """The encoder for pictures of that size in a file of that suffix."""
        if self.alpha and (suffix == ".mov" or (suffix == ".mkv" and self.deep)):
            return Encoder("prores_ks", "yuva444p10le", "matroska")
        if suffix == ".webm" or (self.alpha and suffix == ".mkv"):
            return Encoder("libvpx-vp9", "yuva420p" if self.alpha else "yuv420p", "matroska")
        odd = width % 2 or height % 2
        codec = "libx265" if self.hdr else "libx264"
        if not self.deep:
            return Encoder(codec, "yuv444p" if odd else "yuv420p", "nut")
        if self.source_format in _TEN_BIT and not odd:
            return Encoder(codec, self.source_format, "nut")
        return Encoder(codec, "yuv444p10le" if odd else "yuv420p10le", "nut")

    def losses(self, encoder: Encoder) -> list[str]:
        """What of the picture the encoder cannot hold, in sentences."""
        notes = []
        if self.alpha and not encoder.alpha:
            notes.append(
                f"the transparency was left out: {encoder.label} has none; write .mov, .mkv or .webm to keep it"
            )
        bits = 10 if encoder.deep else 8
        if self.bits > bits:
            hint = "" if encoder.deep or self.alpha else "; write .mp4, .mov or .mkv for ten"
            notes.append(f"the picture was reduced from {self.bits} bits to the {bits} that {encoder.label} has{hint}")
        says = self.mastering
        if (says.chromaticities or says.light_levels) and encoder.codec != "libx265":
            notes.append(f"the HDR10 mastering data was left out: {encoder.label} cannot carry it")
        elif bool(says.chromaticities) != bool(says.luminances):
            notes.append("the HDR10 mastering display was left out: the source gives only a part of it")
        if says.dynamic:
            notes.append("the scene-by-scene HDR data (HDR10+ or Dolby Vision) was left out: it describes old pictures")
        if self.fields.kept and encoder.codec != "libx264":
            notes.append(f"the fields are not marked as such: {encoder.label} is written as progressive")
        return notes


class SegmentWriter:
    """Encodes one run of frames into one file. The times of its packets only count frames; the job keeps the true
    ones, because not every format that can carry a codec can carry any time base."""

    def __init__(self, path: Path, look: Look, settings: Settings, width: int, height: int) -> None:
        self.path, self.look = path, look
        self.encoder = look.encoder(settings.suffix, width, height)
        self.container: OutputContainer = av.open(str(path), "w", format=self.encoder.segment_format)
        options = self.encoder.options(settings, look)
        stream: Any = self.container.add_stream(self.encoder.codec, rate=look.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, self.encoder.pix_fmt
        context = stream.codec_context
        context.time_base = look.time_base
        context.thread_count = codec_threads()
        if self.encoder.codec == "libvpx-vp9":
            context.bit_rate = 0
        if look.aspect:
            context.sample_aspect_ratio = look.aspect
        colour = look.colour
        context.colorspace, context.color_range = colour.space, colour.range_tag
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        self.stream = stream
        self.container.start_encoding()
        self._packets = 0
        self._field_marker = self._mark_fields(width, height) if look.fields.kept else None

    def write(self, pixels: NDArray[Any], pts: int) -> None:
        """Encode (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16."""
        frame = self.look.colour.to_yuv(pixels, self.encoder.pix_fmt)
        frame.pts, frame.time_base = pts, self.look.time_base
        if self._field_marker is not None:
            self._field_marker.push(frame)
            frame = self._field_marker.vpull()
        self._mux(self.stream.encode(frame))

    def finish(self) -> None:
        self._mux(self.stream.encode(None))
        self.container.close()

    def discard(self) -> None:
        self.container.close()
        self.path.unlink(missing_ok=True)

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            packet.pts = packet.dts = self._packets
            packet.duration = 1
            packet.time_base = self.stream.time_base
            self._packets += 1
            self.container.mux(packet)

    def _mark_fields(self, width: int, height: int) -> Graph:
        graph = Graph()
        pix_fmt = av.VideoFormat(self.encoder.pix_fmt, width, height)
        source = graph.add_buffer(width=width, height=height, format=pix_fmt, time_base=self.look.time_base)
        marker = graph.add("setfield", f"mode={self.look.fields.scan.order or 'tff'}")
        graph.link_nodes(source, marker, graph.add("buffersink")).configure()
        return graph
