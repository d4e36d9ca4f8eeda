"""Videos on the command line: options, notes that reach the person, and refusals before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from facewright.io.lock import locked
from facewright.runtime.session import Session

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

PLACE = "+48.1374+011.5755/"


@pytest.fixture(autouse=True)
def pipeline(monkeypatch: pytest.MonkeyPatch, fakes: SimpleNamespace) -> Any:
    """Fake networks in place of the trained ones."""
    made = fakes.pipeline(fakes.face_at((64, 48), 22))
    monkeypatch.setattr(Session, "pipeline", lambda *_: made)
    return made


def video(path: Path, fakes: SimpleNamespace, *, alpha: bool = False, fields: bool = False, frames: int = 12) -> Path:
    """A video with sound and a place; with `alpha` transparent ProRes, with `fields` interlaced."""
    options = {"preset": "ultrafast", "bf": "0"}
    if fields:
        options |= {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"} if path.suffix == ".mov" else {}) as out:
        out.metadata.update({"title": "Wedding", "location": PLACE})
        stream: Any = out.add_stream("prores_ks" if alpha else "libx264", rate=25, options={} if alpha else options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuva444p10le" if alpha else "yuv420p"
        sound: Any = out.add_stream("pcm_s16le" if path.suffix != ".mkv" else "flac", rate=48000, layout="stereo")
        for index in range(frames):
            picture = np.roll(fakes.textured(96, 128), 3 * index, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1920), np.int16), "s16", "stereo")
            piece.sample_rate, piece.pts = 48000, 1920 * index
            out.mux(sound.encode(piece))
        out.mux(stream.encode(None))
        out.mux(sound.encode(None))
    return path


def tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return dict(container.metadata)


def test_notes_are_printed_once_before_the_summary(run: Any, tmp_path: Path, fakes: SimpleNamespace) -> None:
    source = video(tmp_path / "in.mov", fakes, alpha=True)
    code, said, _ = run("restore", source, "-o", tmp_path / "out.webm")
    assert code == 0
    lines = said.splitlines()
    assert lines[:-1] == [
        f"{source}: the picture was reduced from 12 bits to the 8 that VP9 has",
        f"{source}: audio track 1 (pcm_s16le) was encoded anew as Opus: WebM cannot hold it",
    ]
    assert lines[-1].startswith(f"{tmp_path / 'out.webm'}: 12 frames, ")


def test_the_place_is_left_out_if_asked(run: Any, tmp_path: Path, fakes: SimpleNamespace) -> None:
    source = video(tmp_path / "in.mov", fakes)
    assert run("restore", source, "-o", tmp_path / "a.mov")[0] == 0
    assert run("restore", source, "-o", tmp_path / "b.mov", "--drop-gps")[0] == 0
    assert tags(tmp_path / "a.mov")["location"] == PLACE
    assert not [key for key in tags(tmp_path / "b.mov") if "location" in key]
    assert tags(tmp_path / "b.mov")["title"] == "Wedding"
    album = tmp_path / "album"
    album.mkdir()
    source.rename(album / "in.mov")
    assert run("restore", album, "-o", tmp_path / "results", "--drop-gps")[0] == 0
    assert not [key for key in tags(tmp_path / "results" / "in.mov") if "location" in key]


def test_the_container_follows_the_video_when_only_a_folder_is_named(
    run: Any, tmp_path: Path, fakes: SimpleNamespace
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name, expected in (("tape.avi", "tape.mkv"), ("phone.mov", "phone.mov")):
        code, said, _ = run("restore", video(tmp_path / name, fakes), "-o", results)
        assert (code, (results / expected).exists()) == (0, True), said


@pytest.mark.parametrize(("wish", "frames"), [("auto", 12), ("field", 24), ("frame", 12), ("off", 12)])
def test_deinterlacing_by_option(run: Any, tmp_path: Path, fakes: SimpleNamespace, wish: str, frames: int) -> None:
    source = video(tmp_path / "in.mkv", fakes, fields=True)
    code, said, _ = run("restore", source, "-o", tmp_path / "out.mkv", "--deinterlace", wish)
    assert code == 0
    assert f"{frames} frames" in said
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


def test_what_cannot_be_is_refused_in_one_line_before_networks_are_loaded(
    run: Any, tmp_path: Path, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("the networks were loaded")

    source = video(tmp_path / "in.mkv", fakes)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "pipeline", load)
        code, _, err = run("restore", source, "-o", tmp_path / "out.gif")
        assert (code, err.count("\n")) == (2, 1)
        assert "cannot write this kind of video" in err
    for option, message in (
        (["--deinterlace", "bob"], "auto, frame, field, off"),
        (["--resume", "--restart"], "choose one"),
    ):
        code, _, err = run("restore", source, "-o", tmp_path / "out.mkv", *option)
        assert code == 2
        assert message in err
    with locked(tmp_path / "out.mkv"):
        code, _, err = run("restore", source, "-o", tmp_path / "out.mkv")
    assert code == 2
    assert "is being written by process" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]


@pytest.mark.parametrize("option", [["--restart"], ["--deinterlace", "field"]])
def test_options_of_videos_are_refused_for_photos_and_folders(
    run: Any, tmp_path: Path, fakes: SimpleNamespace, option: list[str]
) -> None:
    from PIL import Image

    (tmp_path / "album").mkdir()
    photo = tmp_path / "album" / "a.png"
    Image.fromarray(fakes.textured(60, 140)).save(photo)
    for source, what in ((photo, "a photo"), (photo.parent, "a folder without videos")):
        code, _, err = run("restore", source, "-o", tmp_path / "out", *option)
        assert code == 2
        assert f"{option[0]} works for videos only; it does nothing for {what}" in err


def test_unfinished_work_is_kept_until_asked(
    run: Any, tmp_path: Path, fakes: SimpleNamespace, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = video(tmp_path / "in.mkv", fakes), tmp_path / "out.mkv"
    with monkeypatch.context() as patch:
        patch.setattr("facewright.io.video.mux.sync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        code, _, err = run("restore", source, "-o", target)
    assert code == 2
    assert "12 finished frames are kept" in err
    assert err.count("facewright: ") == 1
    code, _, err = run("restore", source, "-o", target)
    assert code == 2
    assert "--resume" in err
    assert "--restart" in err
    pipeline.restorer.seen.clear()
    assert run("restore", source, "-o", target, "--resume")[0] == 0
    assert pipeline.restorer.seen == []
