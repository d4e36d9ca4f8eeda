"""Speech for the lips: spelling to sounds, visemes, curves; espeak-ng where it is installed, and a stand-in for it."""

from __future__ import annotations

import io
import shutil
import stat
import wave

import numpy as np
import pytest

from facewright.errors import MissingDependencyError, UsageError
from facewright.render import load_ict
from facewright.render.visemes import PROGRAM, VISEMES, Phone, curves, letters_to_sounds, speak, viseme_of

needs_espeak = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="espeak-ng is not installed")


@pytest.mark.parametrize(
    ("word", "sounds"),
    [
        ("ship", "ʃɪp"),
        ("think", "θɪnk"),
        ("moon", "mun"),
        ("Make,", "mæk"),
        ("queen", "kwin"),
        ("nation", "næʃən"),
        ("7", "sɛvɛn"),
    ],
)
def test_spelling_rules(word: str, sounds: str) -> None:
    assert "".join(letters_to_sounds(word)) == sounds


@pytest.mark.parametrize(
    ("phoneme", "viseme"),
    [("p", "PP"), ("ˈaɪ", "aa"), ("uː", "ou"), ("tʃ", "CH"), ("t", "DD"), ("v", "FF"), ("?", "kk")],
)
def test_visemes_of_phonemes(phoneme: str, viseme: str) -> None:
    assert viseme_of(phoneme) == viseme


def test_shapes_exist_in_the_published_model(shared_dir) -> None:
    known = load_ict(shared_dir / "data" / "ict_facekit.npz").expression_names
    assert {name for v in VISEMES.values() for name, _ in v.shapes} <= set(known)


def test_phones_without_sound_follow_each_other() -> None:
    speech = speak("Hello, my friend.", sound=False)
    assert speech.source == "letters"
    assert speech.sound is None
    assert speech.phones[0].start == 0
    assert all(a.end == b.start for a, b in zip(speech.phones, speech.phones[1:]))
    assert "".join(p.symbol for p in speech.phones) == "hɛlɒmifrind"
    comma = speech.phones[[p.symbol for p in speech.phones].index("ɒ") + 1]
    assert (comma.viseme, comma.end - comma.start) == ("sil", pytest.approx(0.2))


def test_mouth_opens_for_vowels_and_closes_for_lips() -> None:
    phones = [Phone("m", "PP", 0.2, 0.3), Phone("a", "aa", 0.3, 0.5), Phone("p", "PP", 0.5, 0.6)]
    phones = [Phone("", "sil", 0.0, 0.2), *phones, Phone("", "sil", 0.6, 1.0)]
    times = np.arange(0, 1, 0.01)
    jaw = np.array([c.get("jawOpen", 0.0) for c in curves(phones, times)])
    press = np.array([c.get("mouthPress_L", 0.0) for c in curves(phones, times)])
    assert 0.35 < times[jaw.argmax()] < 0.45
    assert jaw.max() > 0.35
    assert jaw[[25, 55]].max() < 0.06
    assert press[[25, 55]].min() > 0.4
    assert press[40] < 0.1
    assert jaw[[0, 95]].max() < 0.02


def test_curves_are_smooth_and_scale() -> None:
    speech = speak("a map of people who move", sound=False)
    times = np.arange(0, speech.seconds, 0.005)
    jaw = np.array([c.get("jawOpen", 0.0) for c in curves(speech.phones, times)])
    assert np.abs(np.diff(jaw)).max() < 0.1
    half = np.array([c.get("jawOpen", 0.0) for c in curves(speech.phones, times, strength=0.5)])
    np.testing.assert_allclose(half, jaw / 2, atol=1.1e-3)


def test_bad_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", " ... ", "word " * 201):
        with pytest.raises(UsageError, match="words"):
            speak(text)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="install"):
        speak("hello", sound=True)
    assert speak("hello").source == "letters"


SYNTHESISER = """#!{python}
import re, sys
text = sys.argv[-1]
if "-q" in sys.argv:
    print(dict(mama="m_ˈa_m_a", papa="p_ˈa_p_a")[text])
    sys.exit()
import struct
sound = b""
for volume, word in re.findall(r'volume="(\\d+)">(\\w+)', text):
    loud = [1000 * int(volume) // 100] * 800
    sound += struct.pack("<1000h", *loud, *[0] * 200)
header = b"RIFF" + bytes(20) + struct.pack("<I", 1000) + bytes(16)
sys.stdout.buffer.write(header + sound)
"""


def test_word_times_come_from_the_sound(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that makes 0.8 s of sound and 0.2 s of silence for each word, called as espeak-ng is."""
    import sys

    program = tmp_path / PROGRAM
    program.write_text(SYNTHESISER.replace("{python}", sys.executable), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    speech = speak("mama papa")
    assert speech.source == PROGRAM
    assert speech.seconds == pytest.approx(2.0)
    by_word = [p for p in speech.phones if p.viseme != "sil"]
    assert [p.symbol for p in by_word] == ["m", "ˈa", "m", "a", "p", "ˈa", "p", "a"]
    assert (by_word[0].start, by_word[4].start) == pytest.approx((0.0, 1.0))
    assert by_word[3].end == pytest.approx(0.8, abs=0.002)
    with wave.open(io.BytesIO(speech.sound or b"")) as file:
        assert (file.getframerate(), file.getnframes()) == (1000, 2000)


@needs_espeak
def test_espeak_itself() -> None:
    speech = speak("Hello world, my pretty ship.")
    assert speech.source == PROGRAM
    with wave.open(io.BytesIO(speech.sound or b"")) as file:
        seconds = file.getnframes() / file.getframerate()
    assert speech.seconds == pytest.approx(seconds, abs=1e-3)
    assert all(a.end == pytest.approx(b.start) for a, b in zip(speech.phones, speech.phones[1:]))
    visemes = [p.viseme for p in speech.phones]
    assert visemes.index("PP") > visemes.index("nn")
