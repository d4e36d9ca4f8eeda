"""High dynamic range and transparency of videos: what the standards say, and what survives a pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from facewright.io.video import PerFrame, probe, process_video
from facewright.io.video import hdr as transfer
from facewright.io.video.hdr import HLG, PQ, Mastering, WorkingSpace

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from numpy.typing import NDArray

unchanged = PerFrame(lambda pixels: pixels)
MASTERED = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"


# -- the standards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "light"),
    # ITU-R BT.2408-7, table 1 (58 % is reference white, 75 % about 983 cd/m²) and the full scale of ST 2084
    [(0.0, 0.0), (0.5081, 100.0), (0.5807, 203.0), (0.7518, 1000.0), (0.9026, 4000.0), (1.0, 10000.0)],
)
def test_pq_has_the_values_of_st_2084(signal: float, light: float) -> None:
    assert transfer.pq_to_light(np.array(signal)) == pytest.approx(light, rel=2e-3, abs=1e-6)
    assert transfer.light_to_pq(np.array(light)) == pytest.approx(signal, abs=1e-4)


@pytest.mark.parametrize(
    ("signal", "scene"),
    # BT.2100: half the signal is a twelfth of the light; BT.2408: 75 % is reference white, 38 % grey card
    [(0.0, 0.0), (0.5, 1 / 12), (0.75, 0.26496), (1.0, 1.0)],
)
def test_hlg_has_the_values_of_bt_2100(signal: float, scene: float) -> None:
    assert transfer.hlg_to_scene(np.array(signal)) == pytest.approx(scene, abs=2e-5)
    assert transfer.scene_to_hlg(np.array(scene)) == pytest.approx(signal, abs=2e-5)


def test_hlg_display_light_has_the_values_of_bt_2408() -> None:
    grey = np.repeat(np.array([[0.38], [0.75], [1.0]]), 3, 1)
    light = transfer.hlg_to_light(grey)
    assert light[:, 1] == pytest.approx([26, 203, 1000], rel=0.02)
    np.testing.assert_allclose(transfer.light_to_hlg(light), grey, atol=1e-6)


def test_primaries_have_the_matrix_of_bt_2087() -> None:
    published = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    np.testing.assert_allclose(transfer.primaries_matrix(1, 9), published, atol=5e-5)
    np.testing.assert_allclose(transfer.primaries_matrix(9, 1) @ published, np.eye(3), atol=5e-4)


@pytest.mark.parametrize("kind", [PQ, HLG])
def test_the_working_space_is_what_an_ordinary_screen_shows(kind: int) -> None:
    space = WorkingSpace(kind, 9, 1000.0)
    half, white = (0.5 * transfer.REFERENCE_WHITE, 0.75 * transfer.REFERENCE_WHITE)
    encode = transfer.light_to_pq if kind == PQ else transfer.light_to_hlg
    signal = encode(np.array([[[half] * 3, [white] * 3, [1000.0] * 3, [0.0] * 3]]))
    working = space.to_working(np.rint(signal * 65535).astype(np.uint16))
    # below the knee a grey keeps its light (sRGB 188 is half, 225 three quarters); the peak is white
    assert working[0, :, 1].tolist() == pytest.approx([188, 225, 255, 0], abs=1)
    assert np.ptp(working.astype(int), axis=-1).max() <= 1


@pytest.mark.parametrize("kind", [PQ, HLG])
@pytest.mark.parametrize("peak", [1000.0, 4000.0])
def test_the_way_back_is_the_inverse(kind: int, peak: float) -> None:
    space = WorkingSpace(kind, 9, peak)
    levels = np.array([0, 20, 64, 128, 200, 224, 240, 250], np.uint8)
    pixels = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    again = space.to_working(np.clip(np.rint(space.from_working(pixels)), 0, 65535).astype(np.uint16))
    # HLG cannot show more than its display's 1000 cd/m², whatever the mastering display could
    shown = (space.from_working(pixels) < 65535).all(-1)
    assert np.abs(again.astype(int) - pixels)[shown].max() <= 1
    assert shown.mean() > 0.6


# -- videos -----------------------------------------------------------------------------------------------------------


def gradient() -> NDArray[np.uint16]:
    """A smooth 10-bit picture in PQ or HLG code values."""
    ramp = np.linspace(14000, 40000, 96)
    image = np.repeat((ramp + np.linspace(0, 270, 64)[:, None])[..., None], 3, -1)  # steps of a tenth of a code
    image[:, :, 2] *= 0.9
    return image.astype(np.uint16)


def hdr_video(videos: SimpleNamespace, path: Path, kind: int, extra: str = MASTERED) -> Path:
    options = {"preset": "ultrafast", "crf": "2", "x265-params": f"log-level=none:{extra}".rstrip(":")}
    pictures = [gradient()] * 6
    videos.make(path, "libx265", "yuv420p10le", pictures=pictures, colour=(9, 9, kind), options=options)
    return path


def first_frame(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as container:
        frame: av.VideoFrame = next(container.decode(video=0))
    return frame


def luma(frame: av.VideoFrame) -> NDArray[Any]:
    return np.frombuffer(bytes(frame.planes[0]), np.uint16).reshape(frame.height, -1)[:, : frame.width].astype(int)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_hdr10_keeps_its_mastering_data_its_bits_and_its_colours(
    videos: SimpleNamespace, tmp_path: Path, suffix: str
) -> None:
    source, target = hdr_video(videos, tmp_path / "in.mp4", PQ), tmp_path / f"out{suffix}"
    report = process_video(source, target, unchanged, preset="ultrafast", crf=1)
    assert report.notes == ()
    before, after = first_frame(source), first_frame(target)
    assert Mastering.of(after) == Mastering.of(before)
    assert Mastering.of(after) == Mastering(
        ((34000, 16000), (13250, 34500), (7500, 3000), (15635, 16450)), (10_000_000, 50), (1000, 400)
    )
    info = probe(target)
    assert (info.pix_fmt, info.codec) == ("yuv420p10le", "hevc")
    assert (info.colour_space, info.primaries, info.transfer) == (9, 9, PQ)
    assert np.abs(luma(after) - luma(before)).mean() < 3  # of 1023
    assert len(np.unique(luma(after))) > 200
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.codec_tag == ("hvc1" if suffix != ".mkv" else "\0\0\0\0")


@pytest.mark.parametrize("kind", [PQ, HLG])
def test_the_stage_sees_an_ordinary_picture_and_its_change_comes_out_in_the_videos_light(
    videos: SimpleNamespace, tmp_path: Path, kind: int
) -> None:
    source, target = hdr_video(videos, tmp_path / "in.mp4", kind, ""), tmp_path / "out.mkv"
    seen: list[NDArray[np.uint8]] = []

    def paint(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        seen.append(pixels)
        painted = pixels.copy()
        painted[20:40, 20:60] = 188  # half of white on an ordinary screen
        return painted

    process_video(source, target, PerFrame(paint), preset="ultrafast", crf=1)
    space = WorkingSpace(kind, 9, 1000.0)
    assert np.abs(seen[0].astype(int) - space.to_working(gradient())).mean() < 2
    before, after = luma(first_frame(source)), luma(first_frame(target))
    half = np.full((1, 3), 0.5 * transfer.REFERENCE_WHITE)
    signal = float((transfer.light_to_pq(half) if kind == PQ else transfer.light_to_hlg(half))[0, 0])
    assert after[26:34, 28:52].mean() == pytest.approx(64 + 876 * signal, abs=4)  # half a step of eight bits
    untouched = np.abs(after - before)
    assert untouched[:, 72:].mean() < 3


def test_enlarged_videos_keep_their_bits(videos: SimpleNamespace, tmp_path: Path) -> None:
    source, target = hdr_video(videos, tmp_path / "in.mp4", PQ), tmp_path / "out.mkv"
    import cv2

    double = PerFrame(lambda p: cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4))  # type: ignore[arg-type, return-value]
    process_video(source, target, double, preset="ultrafast", crf=1)
    after = luma(first_frame(target))
    assert after.shape == (128, 192)
    assert len(np.unique(after)) > 200
    assert np.abs(after[::2, ::2] - luma(first_frame(source)))[4:-4, 4:-4].mean() < 6


def test_what_webm_cannot_keep_of_hdr_is_said(videos: SimpleNamespace, tmp_path: Path) -> None:
    report = process_video(hdr_video(videos, tmp_path / "in.mp4", PQ), tmp_path / "out.webm", unchanged)
    assert report.notes == (
        "the picture was reduced from 10 bits to the 8 that VP9 has; write .mp4, .mov or .mkv for ten",
        "the HDR10 mastering data was left out: VP9 cannot carry it",
    )


# -- transparency ------------------------------------------------------------------------------------------------------

ALPHA_VIDEOS = {
    "vp9.webm": ("libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "deadline": "realtime"}),
    "prores.mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "animation.mov": ("qtrle", "argb", {}),
    "png.avi": ("png", "rgba", {}),
}


def layered(index: int) -> NDArray[np.uint8]:
    x = np.tile(np.linspace(0, 255, 96), (64, 1))
    return np.dstack([np.full((64, 96), 120), 60 + x / 2, np.full((64, 96), 90), np.roll(x, 4 * index, 1)]).astype(
        np.uint8
    )


def alpha_of(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder: Any = stream.codec_context
        if decoder.codec.canonical_name == "vp9":
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        frames = [
            frame for packet in container.demux(stream) for frame in decoder.decode(packet if packet.size else None)
        ]
        return [frame.to_ndarray(format="rgba")[..., 3] for frame in frames]


@pytest.mark.parametrize("name", ALPHA_VIDEOS)
@pytest.mark.parametrize("suffix", [".webm", ".mov", ".mkv", ".mp4"])
def test_transparency_is_kept_where_the_codec_has_it(
    videos: SimpleNamespace, tmp_path: Path, name: str, suffix: str
) -> None:
    codec, pix_fmt, options = ALPHA_VIDEOS[name]
    pictures = [layered(i) for i in range(5)]
    source = videos.make(tmp_path / name, codec, pix_fmt, pictures=pictures, options=options)
    assert probe(source).alpha
    target = tmp_path / f"out{suffix}"
    report = process_video(source, target, unchanged, segment_frames=2, preset="ultrafast")
    lost = "the transparency was left out: H.264 has none; write .mov, .mkv or .webm to keep it"
    assert (lost in report.notes) == (suffix == ".mp4")
    assert probe(target).alpha == (suffix != ".mp4")
    if suffix != ".mp4":
        before, after = alpha_of(source), alpha_of(target)
        assert len(after) == 5
        # a frame too early or late would be off by four columns of the ramp
        assert max(np.abs(a.astype(int) - b)[:, 24:].mean() for a, b in zip(before, after, strict=True)) < 4
    times = [f.pts * f.time_base for f in videos.tracks(target, "video")[0].frames]
    assert [float(t) for t in times] == pytest.approx([i / 25 for i in range(5)], abs=6e-4)


def test_transparency_grows_with_the_picture(videos: SimpleNamespace, tmp_path: Path) -> None:
    codec, pix_fmt, options = ALPHA_VIDEOS["prores.mov"]
    source = videos.make(tmp_path / "in.mov", codec, pix_fmt, pictures=[layered(0)] * 3, options=options)
    process_video(source, tmp_path / "out.mov", PerFrame(lambda p: p.repeat(2, 0).repeat(2, 1)))
    after = alpha_of(tmp_path / "out.mov")[0]
    assert after.shape == (128, 192)
    assert np.abs(after[::2, ::2].astype(int) - layered(0)[..., 3]).mean() < 5
