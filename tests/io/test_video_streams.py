"""What goes along with the picture: sound of every make, subtitles, fonts, covers, chapters, tags, and the clock."""

from __future__ import annotations

import errno
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from facewright.errors import OutputError
from facewright.io.video import PerFrame, process_video, suffix_for
from facewright.io.video import tracks as video_tracks

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

FAST: dict[str, Any] = {"preset": "ultrafast"}
unchanged = PerFrame(lambda pixels: pixels)

OLD_VIDEOS: dict[str, dict[str, Any]] = {
    "camera.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "sounds": [("pcm_u8", 11025, "mono", "und")]},
    "divx.avi": {"codec": "mpeg4", "sounds": [("pcm_s16le", 44100, "stereo", "und")]},
    "mp3.avi": {"codec": "mpeg4", "sounds": [("mp3", 44100, "stereo", "und")]},
    "media.wmv": {"codec": "wmv2", "sounds": [("wmav2", 44100, "stereo", "und")], "form": "asf"},
    "flash.flv": {"codec": "flv", "sounds": [("adpcm_swf", 44100, "mono", "und")]},
    "disc.mpg": {"codec": "mpeg2video", "sounds": [("mp2", 48000, "stereo", "und")]},
    "phone.3gp": {"sounds": [("aac", 8000, "mono", "und")]},
    "stream.ts": {"sounds": [("aac", 48000, "stereo", "deu")]},
    "linear.mov": {"sounds": [("pcm_s16be", 48000, "stereo", "deu")]},
    "free.mkv": {"sounds": [("flac", 48000, "5.1", "eng"), ("libopus", 48000, "mono", "fra")]},
}
ALIASES = {"mp2": "mp3"}  # MP4 has one name for all layers of MPEG audio
HOLDERS = {".mp4": "MP4", ".mov": "QuickTime", ".mkv": "Matroska", ".webm": "WebM"}


@pytest.fixture(scope="module")
def old_videos(videos: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("old")
    return {name: videos.make(folder / name, **how) for name, how in OLD_VIDEOS.items()}


def pitch(track: SimpleNamespace) -> float:
    """Hertz of the loudest tone."""
    mono = av.AudioResampler(format="flt", layout="mono")
    pieces = [piece for frame in (*track.frames, None) for piece in mono.resample(frame)]
    samples = np.concatenate([piece.to_ndarray().ravel() for piece in pieces])
    spectrum = np.abs(np.fft.rfft(samples - samples.mean()))
    return float(np.argmax(spectrum) * track.frames[0].sample_rate / len(samples))


PAIRS = [(name, suffix) for name in OLD_VIDEOS for suffix in (".mp4", ".mkv")]
PAIRS += [(name, suffix) for name in ("camera.avi", "media.wmv", "free.mkv") for suffix in (".mov", ".webm")]


@pytest.mark.parametrize(("name", "suffix"), PAIRS)
def test_every_sound_comes_out_in_every_container(
    videos: SimpleNamespace, old_videos: dict[str, Path], tmp_path: Path, name: str, suffix: str
) -> None:
    source, target = old_videos[name], tmp_path / f"out{suffix}"
    report = process_video(source, target, unchanged, **FAST)
    assert report.frames == 25
    before, after = videos.tracks(source, "audio"), videos.tracks(target, "audio")
    assert len(after) == len(before)
    picture, encoded = videos.tracks(target, "video")[0], 0
    for old, new in zip(before, after, strict=True):
        lead = 1100 / old.frames[0].sample_rate  # AAC has a block of silence first, which Matroska does not hide
        assert videos.seconds_of_sound(new) == pytest.approx(videos.seconds_of_sound(old), abs=2 * lead)
        assert pitch(new) == pytest.approx(440, abs=8)
        offset = old.start - videos.tracks(source, "video")[0].start
        assert new.start - picture.start == pytest.approx(offset, abs=lead)
        if new.codec != ALIASES.get(old.codec, old.codec) and new.codec != old.codec:
            encoded += 1
            kind = "Opus" if suffix == ".webm" else "AAC"
            (note,) = (n for n in report.notes if f"({old.codec})" in n)
            assert f"was encoded anew as {kind}" in note
    assert len(report.notes) == encoded


def test_raw_dv_is_kept_with_its_timecode(videos: SimpleNamespace, tmp_path: Path) -> None:
    pictures = [videos.waves(i, 720, 576) for i in range(5)]
    source = videos.make(
        tmp_path / "tape.dv",
        "dvvideo",
        pictures=pictures,
        sounds=[("pcm_s16le", 48000, "stereo", "und")],
        form="dv",
    )
    for suffix in (".mp4", ".mov", ".mkv"):
        target = tmp_path / f"out{suffix}"
        report = process_video(source, target, unchanged, **FAST)
        assert not any("left out" in note for note in report.notes)
        picture, sound = videos.tracks(target, "video")[0], videos.tracks(target, "audio")[0]
        assert len(picture.frames) == 5
        assert videos.seconds_of_sound(sound) == pytest.approx(0.2)
        with av.open(str(target)) as container:
            found = [s.metadata for s in container.streams] + [container.metadata]
        assert "00:00:00:00" in {m.get("timecode") or m.get("TIMECODE") for m in found}


def test_a_quicktime_timecode_survives(videos: SimpleNamespace, tmp_path: Path) -> None:
    source = videos.make(tmp_path / "in.mov", tags={"timecode": "01:02:03:04"})
    for suffix in (".mov", ".mp4", ".mkv"):
        report = process_video(source, tmp_path / f"out{suffix}", unchanged, **FAST)
        assert report.notes == ()
        codes = {
            v
            for track in videos.facts(tmp_path / f"out{suffix}")
            for k, v in track.tags.items()
            if k.lower() == "timecode"
        }
        assert codes == {"01:02:03:04"}


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("start", [1.4, 39600.0])
def test_a_late_clock_starts_at_zero_and_offsets_stay(
    videos: SimpleNamespace, tmp_path: Path, suffix: str, start: float
) -> None:
    source = videos.make(
        tmp_path / "late.ts",
        sounds=[("aac", 48000, "stereo", "deu"), ("mp2", 48000, "stereo", "eng")],
        start=start,
        muxing={"mpegts_copyts": "1"},
    )
    target = tmp_path / f"out{suffix}"
    process_video(source, target, unchanged, **FAST)
    before, after = videos.facts(source), videos.facts(target)
    first = min(track.start for track in before)
    assert first > 1
    for old, new in zip(before, after, strict=True):
        assert new.start == pytest.approx(old.start - first, abs=0.001)
    with av.open(str(target)) as container:
        assert container.duration / av.time_base < 1.2


def test_chapters_move_with_the_clock(videos: SimpleNamespace, tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    plain = videos.make(tmp_path / "plain.ts", start=10, muxing={"mpegts_copyts": "1"})
    with av.open(str(plain)) as a, av.open(str(source), "w") as out:
        stream = out.add_stream_from_template(a.streams.video[0])
        base = Fraction(1, 1000)
        out.set_chapters([{"id": 1, "start": 10000, "end": 10600, "time_base": base, "metadata": {"title": "Wedding"}}])
        for packet in a.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    process_video(source, tmp_path / "out.mkv", unchanged, **FAST)
    with av.open(str(tmp_path / "out.mkv")) as container:
        (chapter,) = container.chapters()
    assert chapter["metadata"]["title"] == "Wedding"
    assert float(chapter["start"] * chapter["time_base"]) == pytest.approx(0.0, abs=0.05)
    assert float(chapter["end"] * chapter["time_base"]) == pytest.approx(0.6, abs=0.05)


def test_joined_recordings_whose_clock_starts_anew_stay_one_video(videos: SimpleNamespace, tmp_path: Path) -> None:
    sound = [("mp2", 48000, "stereo", "und")]
    parts = [videos.make(tmp_path / f"{i}.ts", sounds=sound, start=start) for i, start in enumerate((5, 3, 9000))]
    source = tmp_path / "joined.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    report = process_video(source, tmp_path / "out.mp4", unchanged, **FAST)
    assert report.frames == pytest.approx(75, abs=3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(3, abs=0.25)
    steps = np.diff([float(f.pts * f.time_base) for f in videos.tracks(tmp_path / "out.mp4", "video")[0].frames])
    assert np.median(steps) == pytest.approx(0.04, abs=1e-3)
    assert videos.seconds_of_sound(videos.tracks(tmp_path / "out.mp4", "audio")[0]) == pytest.approx(3, abs=0.25)


# -- everything at once ------------------------------------------------------------------------------------------------

SRT = "1\n00:00:00,200 --> 00:00:00,500\n<i>Good</i> morning\n\n2\n00:00:00,600 --> 00:00:00,900\nAnd bye\n"
ASS = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n"
    "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Dialogue: 0,0:00:00.20,0:00:00.50,Default,,0,0,0,,{\\i1}Hello{\\i0} there\n"
)
FONT = b"\0\1\0\0" + bytes(range(200))


@pytest.fixture(scope="module")
def rich(videos: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matroska with two languages of sound, plain and styled subtitles, a font and chapters."""
    folder = tmp_path_factory.mktemp("rich")
    video = videos.make(folder / "video.mkv", sounds=[("aac", 48000, "stereo", "deu"), ("aac", 48000, "mono", "eng")])
    (folder / "plain.srt").write_text(SRT)
    (folder / "styled.ass").write_text(ASS)
    path = folder / "rich.mkv"
    with (
        av.open(str(video)) as a,
        av.open(str(folder / "plain.srt")) as b,
        av.open(str(folder / "styled.ass")) as c,
        av.open(str(path), "w") as out,
    ):
        out.metadata["title"] = "Family video"
        waiting = []
        for number, container in enumerate((a, b, c)):
            for stream in container.streams:
                copy = out.add_stream_from_template(stream)
                copy.metadata.update({"language": ("", "deu", "fra")[number] or stream.language or "und"})
                waiting.append((container, stream.index, copy))
        out.add_attachment("Gothic.ttf", "application/x-truetype-font", FONT)
        halves = [(0, 500, "Church"), (500, 1000, "Dinner")]
        out.set_chapters(
            [
                {"id": i, "start": s, "end": e, "time_base": Fraction(1, 1000), "metadata": {"title": t}}
                for i, (s, e, t) in enumerate(halves, 1)
            ]
        )
        copies = {(id(container), index): copy for container, index, copy in waiting}
        packets = [(p, copies[id(k), p.stream.index]) for k in (a, b, c) for p in k.demux() if p.size]
        for packet, copy in sorted(packets, key=lambda item: float((item[0].pts or 0) * item[0].time_base)):
            packet.stream = copy
            out.mux(packet)
    return path


def test_matroska_keeps_everything(videos: SimpleNamespace, rich: Path, tmp_path: Path) -> None:
    assert suffix_for(rich) == ".mkv"
    report = process_video(rich, tmp_path / "out.mkv", unchanged, **FAST)
    assert report.notes == ()
    before, after = videos.facts(rich), videos.facts(tmp_path / "out.mkv")
    assert [(t.type, t.language) for t in after] == [(t.type, t.language) for t in before]
    assert [t.codec for t in after][1:] == [t.codec for t in before][1:]
    assert [t.texts for t in after if t.type == "subtitle"] == [t.texts for t in before if t.type == "subtitle"]
    assert after[-1].data == FONT
    assert after[-1].tags["filename"] == "Gothic.ttf"
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [c["metadata"]["title"] for c in container.chapters()] == ["Church", "Dinner"]
        assert container.metadata["title"] == "Family video"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm"])
def test_other_containers_keep_what_they_can_and_the_rest_is_said(
    videos: SimpleNamespace, rich: Path, tmp_path: Path, suffix: str
) -> None:
    target, holder = tmp_path / f"out{suffix}", HOLDERS[suffix]
    report = process_video(rich, target, unchanged, **FAST)
    text = "webvtt" if suffix == ".webm" else "mov_text"
    expected = [
        f"subtitle track 3 (subrip) was converted to {text}: {holder} cannot hold it",
        f"subtitle track 4 (ass) was converted to {text} and lost its styles: {holder} cannot hold it",
        f"attachment 'Gothic.ttf' was left out: {holder} cannot hold it",
    ]
    if suffix == ".webm":
        anew = "was encoded anew as Opus: WebM cannot hold it"
        expected = [f"audio track 1 (aac) {anew}", f"audio track 2 (aac) {anew}", *expected]
    assert list(report.notes) == expected
    german = "ger" if suffix == ".mov" else "deu"  # QuickTime's list of languages has the other code
    assert [t.language for t in videos.tracks(target, "audio")] == [german, "eng"]
    plain, styled = videos.tracks(target, "subtitle")
    assert plain.language == german
    assert [time for time, _ in plain.texts] == pytest.approx([0.2, 0.6])
    assert b"morning" in plain.texts[0][1]
    assert b"And bye" in plain.texts[1][1]
    assert b"Hello" in styled.texts[0][1]
    assert b"{" not in styled.texts[0][1]
    with av.open(str(target)) as container:
        assert [c["metadata"]["title"] for c in container.chapters()] == ["Church", "Dinner"]
        assert container.metadata["title"] == "Family video"
    # what was written can be read again with nothing to say
    again = process_video(target, tmp_path / f"again{suffix}", unchanged, **FAST)
    assert again.notes == ()


@pytest.fixture
def covered(videos: SimpleNamespace, tmp_path: Path) -> Path:
    plain = videos.make(tmp_path / "plain.mp4", sounds=[("aac", 48000, "stereo", "deu")])
    picture = tmp_path / "cover.jpg"
    picture.write_bytes(cv2.imencode(".jpg", videos.waves(3))[1].tobytes())
    with av.open(str(plain)) as a, av.open(str(picture)) as b, av.open(str(tmp_path / "in.mp4"), "w") as out:
        copies = [out.add_stream_from_template(stream) for stream in a.streams]
        cover = out.add_stream_from_template(b.streams.video[0])
        cover.disposition = Disposition.attached_pic
        for packet in (*b.demux(), *a.demux()):
            if packet.size:
                packet.stream = cover if packet.stream.container is b else copies[packet.stream.index]
                out.mux(packet)
    return tmp_path / "in.mp4"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_cover_is_kept_or_named(videos: SimpleNamespace, covered: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    report = process_video(covered, target, unchanged, **FAST)
    covers = [t for t in videos.tracks(target, "video") if t.disposition & Disposition.attached_pic]
    missing = f"cover picture 2 (mjpeg) was left out: {HOLDERS[suffix]} cannot hold it"
    assert len(covers) == (suffix in {".mp4", ".mkv"})
    assert (missing in report.notes) == (not covers)


def test_data_tracks_go_where_they_fit_and_not_at_all_with_the_place(videos: SimpleNamespace, tmp_path: Path) -> None:
    source = tmp_path / "drone.ts"
    with av.open(str(videos.make(tmp_path / "plain.ts"))) as plain, av.open(str(source), "w") as out:
        picture, data = out.add_stream_from_template(plain.streams.video[0]), out.add_data_stream("klv")
        data.time_base = Fraction(1, 90000)
        for number, packet in enumerate(p for p in plain.demux() if p.size):
            position: Any = av.Packet(b"\x06\x0e+4" + bytes(20))
            position.stream, position.pts, position.time_base = data, packet.pts, packet.time_base
            position.dts = packet.pts
            packet.stream = picture
            out.mux(packet)
            out.mux(position)
            assert number < 25
    kept = process_video(source, tmp_path / "out.mov", unchanged, **FAST)
    assert kept.notes == ()
    assert len(videos.tracks(tmp_path / "out.mov", "data")) == 1
    for suffix in (".mp4", ".mkv"):
        (note,) = process_video(source, tmp_path / f"out{suffix}", unchanged, **FAST).notes
        assert note.startswith("data track 1 (klv) was left out: as it is it could not be written (")
    (note,) = process_video(source, tmp_path / "private.mov", unchanged, drop_place=True, **FAST).notes
    assert note == "data track 1 (klv) was left out: it may say where the video was taken"
    assert videos.tracks(tmp_path / "private.mov", "data") == []


def test_a_second_video_is_copied(videos: SimpleNamespace, tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with (
        av.open(str(videos.make(tmp_path / "a.mkv", options={"bf": "2"}))) as a,
        av.open(str(videos.make(tmp_path / "b.mkv", options={"bf": "2"}))) as b,
        av.open(str(source), "w") as out,
    ):
        copies = {id(c): out.add_stream_from_template(c.streams.video[0]) for c in (a, b)}
        for pair in zip((p for p in a.demux() if p.size), (p for p in b.demux() if p.size), strict=True):
            for packet in pair:
                packet.stream = copies[id(packet.stream.container)]
                out.mux(packet)
    for suffix in (".mkv", ".mp4"):
        report = process_video(source, tmp_path / f"out{suffix}", unchanged, **FAST)
        assert report.notes == ("second video 1 (h264) was copied as it is: only the first video is restored",)
        first, second = videos.tracks(tmp_path / f"out{suffix}", "video")
        assert (len(first.frames), len(second.frames)) == (25, 25)
        assert second.start == pytest.approx(first.start, abs=0.001)


def test_the_container_without_a_wish_holds_everything(
    videos: SimpleNamespace, old_videos: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {name: suffix_for(path) for name, path in old_videos.items()}
    assert chosen["phone.3gp"] == chosen["stream.ts"] == chosen["mp3.avi"] == ".mp4"
    assert chosen["camera.avi"] == chosen["divx.avi"] == chosen["free.mkv"] == ".mkv"  # PCM plays in few MP4 players
    assert chosen["linear.mov"] == ".mov"
    for name, suffix in chosen.items():
        report = process_video(old_videos[name], tmp_path / (name + suffix), unchanged, **FAST)
        allowed = {"media.wmv": 1, "flash.flv": 1}  # no container that is written has these sounds
        assert len(report.notes) == allowed.get(name, 0), report.notes


# -- places ------------------------------------------------------------------------------------------------------------

PHONE = {
    "com.apple.quicktime.location.ISO6709": "+48.1374+011.5755/",
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.creationdate": "2021-02-03T04:05:06+0100",
    "location": "+48.1374+011.5755/",
    "title": "Holiday",
}


@pytest.mark.parametrize("source_suffix", [".mov", ".mp4", ".mkv"])
@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv", ".webm"])
def test_the_place_goes_if_asked_and_all_other_keys_stay(
    videos: SimpleNamespace, tmp_path: Path, source_suffix: str, suffix: str
) -> None:
    muxing = {"movflags": "use_metadata_tags"} if source_suffix != ".mkv" else {}
    source = videos.make(tmp_path / f"in{source_suffix}", frames=3, tags=PHONE, muxing=muxing)

    def tags(path: Path) -> dict[str, str]:
        with av.open(str(path)) as container:
            return {key.lower(): value for key, value in container.metadata.items()}

    process_video(source, tmp_path / f"kept{suffix}", unchanged, **FAST)
    process_video(source, tmp_path / f"dropped{suffix}", unchanged, drop_place=True, **FAST)
    kept, dropped = tags(tmp_path / f"kept{suffix}"), tags(tmp_path / f"dropped{suffix}")
    for key in ("com.apple.quicktime.make", "com.apple.quicktime.creationdate", "title"):
        assert kept[key] == dropped[key] == PHONE[key]
    assert kept["com.apple.quicktime.location.iso6709"] == "+48.1374+011.5755/"
    assert not any("location" in key for key in dropped)
    assert b"48.137" not in (tmp_path / f"dropped{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("HOME(11.5755,48.1374) GPS(11.5755,48.1374,18)", True),
        ("[iso : 100] [latitude: 48.137434] [longtitude: 11.575490]", True),
        ("Turn on the GPS, we are late.", False),
    ],
)
def test_subtitles_of_drones_tell_places_too(videos: SimpleNamespace, tmp_path: Path, text: str, private: bool) -> None:
    (tmp_path / "a.srt").write_text(f"1\n00:00:00,000 --> 00:00:00,900\n{text}\n")
    plain, source = videos.make(tmp_path / "plain.mkv"), tmp_path / "in.mkv"
    with av.open(str(plain)) as a, av.open(str(tmp_path / "a.srt")) as b, av.open(str(source), "w") as out:
        copies = {id(c): out.add_stream_from_template(c.streams[0]) for c in (a, b)}
        for packet in (*b.demux(), *a.demux()):
            if packet.size:
                packet.stream = copies[id(packet.stream.container)]
                out.mux(packet)
    assert process_video(source, tmp_path / "kept.mkv", unchanged, **FAST).notes == ()
    report = process_video(source, tmp_path / "out.mkv", unchanged, drop_place=True, **FAST)
    assert len(videos.tracks(tmp_path / "kept.mkv", "subtitle")) == 1
    assert len(videos.tracks(tmp_path / "out.mkv", "subtitle")) == (not private)
    note = "subtitle track 1 (subrip) was left out: it may say where the video was taken"
    assert report.notes == ((note,) if private else ())


def test_ordinary_tags_stay_where_all_players_look(videos: SimpleNamespace, tmp_path: Path) -> None:
    source = videos.make(tmp_path / "in.mp4", frames=3, tags={"title": "Holiday", "artist": "Anna"})
    process_video(source, tmp_path / "out.mp4", unchanged, metadata={"comment": "restored"}, **FAST)
    data = (tmp_path / "out.mp4").read_bytes()
    assert all(atom in data for atom in (b"\xa9nam", b"\xa9ART", b"\xa9cmt"))


# -- nothing costs the picture -----------------------------------------------------------------------------------------


def test_the_output_is_tried_before_the_first_frame(
    videos: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = videos.make(tmp_path / "in.mkv", sounds=[("aac", 48000, "stereo", "deu")])
    seen: list[Any] = []
    notes: list[tuple[int, str]] = []

    def refuse(*_: Any, **__: Any) -> Any:
        raise av.error.InvalidDataError(errno.EINVAL, "no such luck")

    monkeypatch.setattr(video_tracks.Sink, "feed", refuse)
    monkeypatch.setattr(video_tracks.SoundSink, "feed", refuse)
    report = process_video(
        source,
        tmp_path / "out.mkv",
        PerFrame(lambda p: seen.append(1) or p),  # type: ignore[func-returns-value]
        notify=lambda note: notes.append((len(seen), note)),
        **FAST,
    )
    assert notes == [(0, report.notes[0])]
    assert report.notes[0].startswith("audio track 1 (aac) was left out: as it is it could not be written")
    assert [t.type for t in videos.facts(tmp_path / "out.mkv")] == ["video"]
    assert report.frames == 25


def test_a_track_that_fails_only_at_the_end_costs_itself(
    videos: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = videos.make(
        tmp_path / "in.mkv", frames=400, sounds=[("aac", 48000, "stereo", "deu"), ("flac", 48000, "mono", "eng")]
    )
    place = video_tracks.Sink._place

    def fail_late(self: Any, packet: Any, shift: Fraction) -> None:
        if packet.stream.index == 2 and packet.pts * packet.time_base > 12:
            raise av.error.InvalidDataError(errno.EINVAL, "torn")
        place(self, packet, shift)

    monkeypatch.setattr(video_tracks.Sink, "_place", fail_late)
    report = process_video(source, tmp_path / "out.mkv", unchanged, **FAST)
    assert report.frames == 400
    (note,) = report.notes
    assert note.startswith("audio track 2 (flac) was left out")
    (sound,) = videos.tracks(tmp_path / "out.mkv", "audio")
    assert (sound.codec, sound.language) == ("aac", "deu")


def test_segments_survive_a_failing_join(
    videos: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = videos.make(tmp_path / "in.mkv", sounds=[("aac", 48000, "stereo", "deu")]), tmp_path / "out.mp4"
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr("facewright.io.video.mux.sync", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(OutputError, match="the disk is full") as failure:
            process_video(source, target, unchanged, segment_frames=10, **FAST)
    assert "25 finished frames are kept" in failure.value.__notes__[0]
    assert not target.exists()
    seen: list[Any] = []
    report = process_video(
        source,
        target,
        PerFrame(lambda p: seen.append(1) or p),  # type: ignore[func-returns-value]
        segment_frames=10,
        resume=True,
        **FAST,
    )
    assert (report.frames, report.segments_reused, len(seen)) == (25, 3, 0)
    assert videos.tracks(target, "audio")[0].language == "deu"
