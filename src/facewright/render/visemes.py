"""What a mouth does while it speaks: text to phonemes, phonemes to visemes, visemes to curves of blend shapes.

With espeak-ng installed (its command line is called, nothing of it is linked) the words have the times of the sound it
makes, so lips and sound match. To find where a word begins, the text is spoken again with that word silenced: the two
sounds are equal up to there. Within a word, phonemes share the time by their usual lengths. Without espeak-ng there
are rules from letters to sounds for English, made for moving lips and not for pronunciation, and no sound.

Curves follow the dominance functions of Cohen and Massaro (Modeling Coarticulation in Synthetic Visual Speech, 1993,
section 5): at every moment the mouth's pose is the mean of all visemes, weighted by dominances that fall off
exponentially with the time from them. Lips that have to close dominate their neighbours.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from ..errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

PROGRAM = "espeak-ng"
MOST_WORDS = 200
TIMEOUT = 30  # seconds that one call may take
PAUSES = {",": 0.2, ";": 0.25, ":": 0.25, ".": 0.4, "!": 0.4, "?": 0.4}
SILENCE = "sil"
_QUIET = 0.02  # of the loudest sample: what lies below at a word's end is a pause
_SHORTEST = 0.02  # seconds of a phoneme
_LONGEST_REACH = 0.12  # a long phoneme or pause reaches no further into its neighbours than one of so many seconds


@dataclass(frozen=True, slots=True)
class Viseme:
    """A mouth pose: weights 0..1 of blend shapes; how much it dominates its neighbours; the usual length in seconds."""

    shapes: tuple[tuple[str, float], ...]
    dominance: float
    length: float


def _viseme(length: float, dominance: float = 1.0, **shapes: float) -> Viseme:
    sided = ("mouthPress", "mouthLowerDown", "mouthUpperUp", "mouthStretch", "mouthSmile", "mouthDimple")
    pairs = [(f"{k}_{side}", v) for k, v in shapes.items() if k in sided for side in "LR"]
    return Viseme((*pairs, *((k, v) for k, v in shapes.items() if k not in sided)), dominance, length)


VISEMES = {
    SILENCE: _viseme(0.2, 0.6),
    "PP": _viseme(0.08, 6.0, mouthPress=0.5, mouthRollLower=0.2, mouthRollUpper=0.2),
    "FF": _viseme(0.09, 3.0, mouthRollLower=0.5, mouthUpperUp=0.25, jawOpen=0.04),
    "TH": _viseme(0.08, 1.5, jawOpen=0.12, mouthLowerDown=0.2),
    "DD": _viseme(0.06, 1.0, jawOpen=0.12, mouthLowerDown=0.15),
    "kk": _viseme(0.07, 0.8, jawOpen=0.18),
    "CH": _viseme(0.1, 2.0, mouthFunnel=0.5, mouthPucker=0.2, jawOpen=0.08),
    "SS": _viseme(0.1, 1.5, mouthStretch=0.25, mouthLowerDown=0.2, jawOpen=0.05),
    "nn": _viseme(0.07, 0.8, jawOpen=0.12),
    "RR": _viseme(0.07, 1.0, mouthFunnel=0.3, jawOpen=0.12),
    "aa": _viseme(0.12, 2.0, jawOpen=0.55, mouthLowerDown=0.2),
    "E": _viseme(0.1, 1.6, jawOpen=0.3, mouthStretch=0.25, mouthSmile=0.1),
    "ih": _viseme(0.08, 1.4, jawOpen=0.18, mouthStretch=0.3, mouthSmile=0.1),
    "oh": _viseme(0.12, 1.8, jawOpen=0.35, mouthFunnel=0.4, mouthPucker=0.2),
    "ou": _viseme(0.1, 2.0, jawOpen=0.12, mouthPucker=0.65, mouthFunnel=0.3),
}
"""Fifteen visemes of the MPEG-4 family under their names in talking avatars; the weights are our choice."""

# International phonetic alphabet, as espeak-ng writes it
_OF_PHONEME = {
    **dict.fromkeys("pbm", "PP"),
    **dict.fromkeys("fvɱ", "FF"),
    **dict.fromkeys("θð", "TH"),
    **dict.fromkeys("tdɾʔ", "DD"),
    **dict.fromkeys("kɡgŋxhɣçqχʁɦ", "kk"),
    **dict.fromkeys("ʃʒʧʤɕʑ", "CH"),
    **dict.fromkeys("sz", "SS"),
    **dict.fromkeys("nlɫɲʎ", "nn"),
    **dict.fromkeys("rɹɻʀɚɝ", "RR"),
    **dict.fromkeys("aɑæʌɐɒ", "aa"),
    **dict.fromkeys("eɛəɜœø", "E"),
    **dict.fromkeys("iɪjyᵻɨ", "ih"),
    **dict.fromkeys("oɔɤ", "oh"),
    **dict.fromkeys("uʊwɯʉɥʍ", "ou"),
}

# English spelling to sounds, longest first; '' is silent
_LETTERS = {
    "tion": "ʃən",
    "sion": "ʒən",
    "ough": "ɔ",
    "igh": "aɪ",
    "tch": "tʃ",
    "dge": "dʒ",
    "eau": "oʊ",
    "th": "θ",
    "sh": "ʃ",
    "ch": "tʃ",
    "ph": "f",
    "wh": "w",
    "ck": "k",
    "ng": "ŋ",
    "qu": "kw",
    "gh": "",
    "kn": "n",
    "wr": "r",
    "ee": "i",
    "ea": "i",
    "oo": "u",
    "ou": "aʊ",
    "ow": "oʊ",
    "ai": "eɪ",
    "ay": "eɪ",
    "oi": "ɔɪ",
    "oy": "ɔɪ",
    "au": "ɔ",
    "aw": "ɔ",
    "ew": "u",
    "ie": "i",
    "oa": "oʊ",
    "ar": "ɑr",
    "er": "ɜr",
    "ir": "ɜr",
    "ur": "ɜr",
    "or": "ɔr",
    "ll": "l",
    "ss": "s",
    "tt": "t",
    "pp": "p",
    "mm": "m",
    "nn": "n",
    "ff": "f",
    "a": "æ",
    "b": "b",
    "c": "k",
    "d": "d",
    "e": "ɛ",
    "f": "f",
    "g": "g",
    "h": "h",
    "i": "ɪ",
    "j": "dʒ",
    "k": "k",
    "l": "l",
    "m": "m",
    "n": "n",
    "o": "ɒ",
    "p": "p",
    "q": "k",
    "r": "r",
    "s": "s",
    "t": "t",
    "u": "ʌ",
    "v": "v",
    "w": "w",
    "x": "ks",
    "y": "i",
    "z": "z",
}
_LONGEST = max(map(len, _LETTERS))
_VOWELS = "aeiouy"
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class Phone:
    """A sound of speech: `symbol` in the phonetic alphabet ('' for silence), its viseme, start and end in seconds."""

    symbol: str
    viseme: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Speech:
    """Phones without gaps from 0 to the end, and the sound as the bytes of a WAV file, None where there is none.

    `source` is "espeak-ng" or "letters".
    """

    text: str
    phones: tuple[Phone, ...]
    sound: bytes | None
    source: str

    @property
    def seconds(self) -> float:
        return self.phones[-1].end


def speak(text: str, *, voice: str = "en", sound: bool | None = None) -> Speech:
    """How a text is spoken. `voice` is one of espeak-ng's.

    `sound` false takes the built-in rules for letters, true demands espeak-ng, None takes what is there. Raises
    UsageError for text without words or of more than 200, MissingDependencyError where espeak-ng is missing or fails.
    """
    words = [w for w in text.split() if re.search(r"\w", w)]
    if not words or len(words) > MOST_WORDS:
        raise UsageError(f"a text to be spoken needs 1 to {MOST_WORDS} words, not {len(words)}")
    installed = shutil.which(PROGRAM) is not None
    if sound and not installed:
        raise MissingDependencyError("speech with sound needs espeak-ng; install it with your system's package manager")
    if installed and sound is not False:
        return _spoken(text, words, voice)
    return Speech(text, tuple(_by_letters(words)), None, "letters")


def viseme_of(phoneme: str) -> str:
    """The viseme of a phoneme in the phonetic alphabet without regard to stress and length; kk for unknown ones."""
    if "ʃ" in phoneme or "ʒ" in phoneme:  # affricates begin with the tongue and end with the lips
        return "CH"
    return next((_OF_PHONEME[c] for c in phoneme if c in _OF_PHONEME), "kk")


def letters_to_sounds(word: str) -> list[str]:
    """Phonemes of an English word by rules for its spelling."""
    spelled = re.sub(r"\d", lambda d: _DIGITS[int(d[0])], word.lower())
    letters = re.sub(r"[^a-z]", "", spelled)
    if len(letters) > 3 and letters[-1] == "e" and letters[-2] not in _VOWELS:
        letters = letters[:-1]
    sounds: list[str] = []
    place = 0
    while place < len(letters):
        size = next(n for n in range(_LONGEST, 0, -1) if letters[place : place + n] in _LETTERS)
        sounds += _LETTERS[letters[place : place + size]]
        place += size
    return sounds


def _by_letters(words: Sequence[str]) -> Iterator[Phone]:
    time = VISEMES[SILENCE].length
    yield Phone("", SILENCE, 0.0, time)
    for word in words:
        for symbol in letters_to_sounds(word):
            viseme = viseme_of(symbol)
            yield Phone(symbol, viseme, time, time := time + VISEMES[viseme].length)
        pause = PAUSES.get(word[-1])
        if pause:
            yield Phone("", SILENCE, time, time := time + pause)
    yield Phone("", SILENCE, time, time + VISEMES[SILENCE].length)


def _spoken(text: str, words: Sequence[str], voice: str) -> Speech:
    whole, rate, sound = _sound(words, voice)
    starts = [_first_difference(whole, _sound(words, voice, silenced=k)[0]) / rate for k in range(len(words))]
    loud = np.flatnonzero(np.abs(whole) > _QUIET * np.abs(whole).max()) / rate
    bounds = [*starts, len(whole) / rate]
    phones = [Phone("", SILENCE, 0.0, starts[0])] if starts[0] > 0 else []
    for symbols, start, following in zip(_phonemes(words, voice), bounds[:-1], bounds[1:]):
        heard = loud[(loud >= start) & (loud < following)]
        end = float(heard[-1]) if len(heard) and following - heard[-1] > _SHORTEST else following
        phones += _shared(symbols, start, end)
        if end < following:
            phones.append(Phone("", SILENCE, end, following))
    return Speech(text, tuple(phones), sound, PROGRAM)


def _shared(symbols: Sequence[str], start: float, end: float) -> Iterator[Phone]:
    """The phones of a word, sharing its time by their usual lengths."""
    lengths = np.array([VISEMES[viseme_of(s)].length * (1.6 if "ː" in s else 1.0) for s in symbols])
    times = start + np.concatenate([[0.0], lengths.cumsum() / lengths.sum()]) * (end - start)
    for symbol, first, last in zip(symbols, times[:-1], times[1:]):
        yield Phone(symbol, viseme_of(symbol), float(first), float(last))


def _phonemes(words: Sequence[str], voice: str) -> list[list[str]]:
    """Phonemes of each word, spoken alone."""
    lines = [_called(["-q", "--ipa", "--sep=_", "-v", voice, "--", _plain(word)]).decode() for word in words]
    found = [[s for s in re.split(r"[_\s]+", line) if any(c in _OF_PHONEME for c in s)] for line in lines]
    return [symbols or letters_to_sounds(word) or ["ə"] for symbols, word in zip(found, words)]


def _plain(word: str) -> str:
    return re.sub(r"[^\w']", "", word)


def _sound(words: Sequence[str], voice: str, silenced: int | None = None) -> tuple[NDArray[np.int64], int, bytes]:
    """Samples, their rate, and the WAV file of words spoken in a row, one of them silently."""
    marked = [
        f'<prosody volume="{0 if k == silenced else 100}">{escape(word)}</prosody>' for k, word in enumerate(words)
    ]
    wav = _called(["-m", "--stdout", "-v", voice, "--", f"<speak>{' '.join(marked)}</speak>"])
    samples = np.frombuffer(wav[44:], "<i2").astype(np.int64)  # the header's lengths are not set in a stream
    if not len(samples):
        raise MissingDependencyError(f"{PROGRAM} made no sound for voice {voice!r}; check it on the command line")
    rate = int.from_bytes(wav[24:28], "little")
    return samples, rate, _wav(samples, rate)


def _wav(samples: NDArray[np.int64], rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def _first_difference(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    count = min(len(a), len(b))
    different = np.flatnonzero(a[:count] != b[:count])
    return int(different[0]) if len(different) else count


def _called(arguments: list[str]) -> bytes:
    try:
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        reason = said.decode(errors="replace").strip() or str(error)
        raise MissingDependencyError(f"{PROGRAM} could not speak the text ({reason}); try it alone") from error
    return done.stdout


def curves(phones: Sequence[Phone], times: NDArray[np.float64], *, strength: float = 1.0) -> list[dict[str, float]]:
    """Weights of blend shapes at each of the times (T,) in seconds; `strength` scales how widely the mouth moves."""
    names = sorted({name for viseme in VISEMES.values() for name, _ in viseme.shapes})
    poses = np.zeros((len(phones), len(names)))
    for row, phone in enumerate(phones):
        for name, weight in VISEMES[phone.viseme].shapes:
            poses[row, names.index(name)] = weight
    start, end = (np.array([getattr(p, key) for p in phones]) for key in ("start", "end"))
    height = np.array([VISEMES[p.viseme].dominance for p in phones])
    away = np.maximum(np.abs(times[:, None] - (start + end) / 2) - (end - start) / 4, 0)
    dominance = height * np.exp(-away / (0.25 * np.minimum(end - start, _LONGEST_REACH) + 0.01))
    total = dominance.sum(1, keepdims=True)
    blended = strength * (dominance @ poses) / np.maximum(total, 1e-12)
    return [{n: float(v) for n, v in zip(names, row) if v > 1e-3} for row in blended.clip(0, 1)]
