"""Tiny videos of every make, and a look at what a video file holds."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HEIGHT = 96, 64
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}


def waves(time: float, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A grey pattern that moves with every unit of time, without sharp edges."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    values = 128 + 60 * np.sin((x - 2.0 * time) / 7) + 50 * np.sin((y + x + 1.3 * time) / 9)
    return np.repeat(values.astype(np.uint8)[..., None], 3, -1)


def woven(first: NDArray[np.uint8], second: NDArray[np.uint8], order: str) -> NDArray[np.uint8]:
    """One frame of two fields, the earlier one on top for "tff"."""
    top, bottom = (first, second) if order == "tff" else (second, first)
    frame = top.copy()
    frame[1::2] = bottom[1::2]
    return frame


def tone(index: int, rate: int, layout: str, form: str, samples: int) -> av.AudioFrame:
    """A stretch of a 440 Hz tone."""
    wave = np.sin(2 * np.pi * 440 * (np.arange(samples) + samples * index) / rate)
    values = (wave * 60 + 128).astype(np.uint8) if form == "u8" else (8000 * wave).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(values[:, None], CHANNELS[layout], 1).reshape(1, -1), form, layout)  # type: ignore[arg-type]
    frame.sample_rate, frame.pts, frame.time_base = rate, samples * index, Fraction(1, rate)
    return frame


def make(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    pictures: Sequence[NDArray[Any]] | None = None,
    frames: int = 25,
    rate: Fraction | int = 25,
    sounds: Sequence[tuple[str, int, str, str]] = (),
    start: float = 0,
    marked: str | None = None,
    colour: tuple[int, int, int] | None = None,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    form: str | None = None,
) -> Path:
    """Write a video. `sounds` are (encoder, sample rate, layout, language), `marked` flags frames as "tff" or "bff",
    `colour` are its matrix, primaries and transfer."""
    pictures = pictures if pictures is not None else [waves(i) for i in range(frames)]
    height, width = pictures[0].shape[:2]
    fast = {"preset": "ultrafast", "crf": "8", "bf": "0"} if codec == "libx264" else {}
    if marked and codec == "libx264":
        fast |= {"flags": "+ildct+ilme", "x264-params": f"{marked}=1"}
    elif marked:
        fast |= {"flags": "+ildct+ilme"}
    with av.open(str(path), "w", format=form, options=muxing or {}) as out:
        out.metadata.update(tags or {})
        stream: Any = out.add_stream(codec, rate=rate, options=fast | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if codec == "mpeg2video":
            stream.bit_rate = 6_000_000
        if colour:
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc = colour
            context.color_range = 1
        sound = []
        for encoder, hertz, layout, language in sounds:
            added: Any = out.add_stream(encoder, rate=hertz)
            added.layout, added.bit_rate = layout, 64000
            added.metadata["language"] = language
            sound.append((added, hertz, layout, "u8" if encoder == "pcm_u8" else "s16"))
        mark = None
        for i, pixels in enumerate(pictures):
            frame = to_frame(pixels, pix_fmt, 9 if colour and colour[0] == 9 else 5)
            frame.pts, frame.time_base = i + round(start * rate), 1 / Fraction(rate)
            if marked:
                mark = mark or marker(frame, marked)
                mark.push(frame)
                frame = mark.vpull()
            out.mux(stream.encode(frame))
            for added, hertz, layout, sample in sound:
                piece = tone(i, hertz, layout, sample, round(hertz / rate))
                piece.pts = (piece.pts or 0) + round(start * hertz)
                out.mux(added.encode(piece))
        for added in (stream, *(s[0] for s in sound)):
            out.mux(added.encode(None))
    return path


def to_frame(pixels: NDArray[Any], pix_fmt: str, matrix: int) -> av.VideoFrame:
    """RGB or RGBA, uint8 or uint16, to a frame."""
    names = {(3, 1): "rgb24", (4, 1): "rgba", (3, 2): "rgb48le", (4, 2): "rgba64le"}
    frame = av.VideoFrame.from_ndarray(pixels, format=names[pixels.shape[2], pixels.itemsize])
    if pix_fmt in {"rgb24", "rgba", "argb"}:
        return frame.reformat(format=pix_fmt)
    full = 2 if pix_fmt.startswith("yuvj") else 1
    return frame.reformat(format=pix_fmt, dst_colorspace=matrix, src_color_range=2, dst_color_range=full)


def marker(frame: av.VideoFrame, order: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("setfield", f"mode={order}"), graph.add("buffersink")).configure()
    return graph


def facts(path: Path) -> list[SimpleNamespace]:
    """Every stream of a video: type, codec, language, first time, decoded frames or packets."""
    with av.open(str(path)) as container:
        count = len(container.streams)
    return [_facts(path, index) for index in range(count)]


def _facts(path: Path, index: int) -> SimpleNamespace:
    with av.open(str(path)) as container:
        stream = container.streams[index]
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else None
        known = SimpleNamespace(type=stream.type, codec=codec, language=stream.language, tags=dict(stream.metadata))
        known.disposition = int(stream.disposition)
        if stream.type in {"video", "audio"}:
            known.frames = list(container.decode(stream))
            known.start = float((known.frames[0].pts or 0) * known.frames[0].time_base)
        elif stream.type == "subtitle":
            known.texts = [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size > 2]
        elif stream.type == "attachment":
            known.data = stream.data  # type: ignore[attr-defined]
        return known


def seconds_of_sound(track: SimpleNamespace) -> float:
    return sum(frame.samples for frame in track.frames) / track.frames[0].sample_rate


@pytest.fixture(scope="session")
def videos() -> SimpleNamespace:
    """`make`, `facts`, `waves`, `woven`, `seconds_of_sound`, and `tracks(path, type)`."""

    def tracks(path: Path, kind: str) -> list[SimpleNamespace]:
        return [track for track in facts(path) if track.type == kind]

    functions: dict[str, Callable[..., Any]] = {
        "make": make,
        "facts": facts,
        "waves": waves,
        "woven": woven,
        "seconds_of_sound": seconds_of_sound,
        "tracks": tracks,
    }
    return SimpleNamespace(**functions)
