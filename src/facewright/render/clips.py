"""Clips: one person in one place, moving smoothly; every frame is a `Scene` of its own, so its truth is complete.

What moves, and by which statistics:

- Blinks come at 17 a minute at rest, 26 when talking and 4.5 when reading, with log-normal intervals (Bentivoglio et
  al., Analysis of Blink Rate Patterns in Normal Subjects, 1997). The lids close in about 80 ms, stay a moment, and open
  more slowly (VanderWerf et al., Eyelid Movements, 2003: down phases far shorter than up phases); the exact means are
  ours.
- The eyes rest for log-normal times of 0.35 s in the median and jump in 21 ms + 2.2 ms for each degree (the main
  sequence: Carpenter, Movements of the Eyes, 1988).
- The head follows a smooth curve through random turns, about one a second; the expression goes from one emotion to
  the next and back to rest.
- While a text is spoken, jaw and lips are those of `visemes`, whose times are part of the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PchipInterpolator

from ..degrade import Degradation, Noise
from ..errors import UsageError
from .scene import EMOTIONS, EYE_RANGE, FARTHEST_TILT, FARTHEST_YAW, Scene, converging, emotion_weights, lids
from .visemes import Speech, curves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLINKS_PER_MINUTE = {"rest": 17.0, "talking": 26.0, "reading": 4.5}
BLINK_SPREAD = 0.6  # of the logarithm of the intervals
CLOSING, SHUT, OPENING = 0.08, 0.02, 0.18  # seconds
REST_OF_EYES, REST_SPREAD = 0.35, 0.5
JUMP, JUMP_PER_DEGREE = 0.021, 0.0022  # seconds
HEAD_TURNS = (6.0, 4.0, 3.0)  # degrees of yaw, pitch, roll
_MOUTH = ("jaw", "mouth")


@dataclass(frozen=True, slots=True)
class Blink:
    """One blink: when the lids begin to close, when they are shut, and when they are open again, in seconds."""

    start: float
    shut: float
    end: float


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames in order, frame i at i / `fps` seconds; `speech` has the phones and their sound, if anything is said."""

    scenes: tuple[Scene, ...]
    fps: float
    blinks: tuple[Blink, ...]
    speech: Speech | None


def make_clip(
    start: Scene,
    seed: int,
    names: Sequence[str],
    *,
    seconds: float | None = None,
    fps: float = 25.0,
    speech: Speech | None = None,
    activity: str | None = None,
) -> Clip:
    """A clip that begins with the person, place, light and camera of a scene.

    `names` are the expressions the face model has. It lasts `seconds`, or as long as the speech. `activity` is one of
    `BLINKS_PER_MINUTE`; by default "talking" with speech and "rest" without. Equal arguments give equal clips. Raises
    UsageError for an unknown activity and for a length or rate that is not positive.
    """
    activity = activity or ("talking" if speech else "rest")
    if activity not in BLINKS_PER_MINUTE:
        raise UsageError(f"unknown activity {activity!r}; choose from {', '.join(BLINKS_PER_MINUTE)}")
    seconds = seconds if seconds is not None else speech.seconds if speech else 4.0
    if not (seconds > 0 and fps > 0):
        raise UsageError(f"a clip needs a positive length and frame rate, not {seconds} s at {fps} frames/s")
    rng = np.random.default_rng([seed, 2])
    times = np.arange(max(1, round(seconds * fps))) / fps
    blinks = draw_blinks(rng, seconds, BLINKS_PER_MINUTE[activity])
    poses = _head(rng, times, start.pose)
    gazes = _gaze(rng, times, start.gaze)
    moods = _moods(rng, times)
    said = curves(speech.phones, times) if speech else [{} for _ in times]
    distance = float(np.exp(rng.uniform(math.log(0.4), math.log(4))))
    scenes = []
    for i, closed in enumerate(closure(blinks, times)):
        yaw, pitch = (float(v) for v in gazes[i])
        weights = _joined(moods[i], said[i], talking=speech is not None) | lids(pitch, float(closed))
        frame = replace(
            start,
            index=start.index + i,
            pose=(float(poses[i, 0]), float(poses[i, 1]), float(poses[i, 2])),
            gaze=converging(yaw, pitch, distance),
            expression={n: w for n, w in sorted(weights.items()) if n in names and w > 0},
            effects=_other_noise(start, i),
        )
        scenes.append(frame)
    return Clip(tuple(scenes), fps, blinks, speech)


def draw_blinks(rng: np.random.Generator, seconds: float, per_minute: float) -> tuple[Blink, ...]:
    """Blinks that begin within `seconds`; the intervals between their beginnings are log-normal of that mean rate."""
    mean = 60 / per_minute
    blinks: list[Blink] = []
    time = float(rng.uniform(0, mean))
    while time < seconds:
        slower = float(rng.lognormal(0, 0.15))
        shut = time + CLOSING * slower
        blinks.append(Blink(time, shut, shut + (SHUT + OPENING) * slower))
        interval = float(rng.lognormal(math.log(mean) - BLINK_SPREAD**2 / 2, BLINK_SPREAD))
        time = max(time + interval, blinks[-1].end)
    return tuple(blinks)


def closure(blinks: Sequence[Blink], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) 0..1 how far the lids are closed at times in seconds."""
    closed = np.zeros(len(times))
    for blink in blinks:
        held = blink.shut + (blink.end - blink.shut) * SHUT / (SHUT + OPENING)
        falling = _eased((times - blink.start) / (blink.shut - blink.start))
        rising = _eased((blink.end - times) / (blink.end - held))
        closed = np.maximum(closed, np.minimum(falling, rising))
    return closed


def _eased(share: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(share, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _head(
    rng: np.random.Generator, times: NDArray[np.float64], start: tuple[float, float, float]
) -> NDArray[np.float64]:
    """(T, 3) pose through random turns about the starting one, with continuous speed."""
    knots = [0.0]
    while knots[-1] <= times[-1]:
        knots.append(knots[-1] + float(rng.uniform(0.6, 1.6)))
    turns = np.vstack([np.zeros(3), rng.normal(0, HEAD_TURNS, (len(knots) - 1, 3))])
    limits = np.array([FARTHEST_YAW, FARTHEST_TILT, FARTHEST_TILT])
    return np.asarray(PchipInterpolator(knots, np.clip(turns + start, -limits, limits))(times))


def _gaze(
    rng: np.random.Generator, times: NDArray[np.float64], start: tuple[tuple[float, float], tuple[float, float]]
) -> NDArray[np.float64]:
    """(T, 2) yaw and pitch of the eyes: they rest and jump."""
    held = np.mean(start, axis=0)
    knots, values, time = [0.0], [held], 0.0
    while time <= times[-1]:
        time += float(rng.lognormal(math.log(REST_OF_EYES), REST_SPREAD))
        following = np.clip(rng.normal(0, (11, 6)), *(np.array(EYE_RANGE) * sign for sign in (-1, 1)))
        reach = float(np.hypot(*(following - held)))
        knots += [time, time + JUMP + JUMP_PER_DEGREE * reach]
        values += [held, following]
        held, time = following, knots[-1]
    return np.asarray(PchipInterpolator(knots, np.array(values))(times))


def _moods(rng: np.random.Generator, times: NDArray[np.float64]) -> list[dict[str, float]]:
    """Weights at each time: emotions that rise, stay and fade, with pauses between them."""
    weights: list[dict[str, float]] = [{} for _ in times]
    begin = float(rng.uniform(0, 1))
    while begin < times[-1]:
        shown = emotion_weights(str(rng.choice(list(EMOTIONS))), float(rng.uniform(0.2, 0.9)))
        rise, stay, fade = (float(v) for v in rng.uniform([0.25, 0.4, 0.4], [0.7, 2.0, 1.0]))
        end = begin + rise + stay + fade
        strength = np.minimum(_eased((times - begin) / rise), _eased((end - times) / fade))
        for at, share in zip(weights, strength):
            at |= {name: float(share) * value for name, value in shown.items() if share > 0}
        begin = end + float(rng.exponential(0.8))
    return weights


def _joined(mood: dict[str, float], said: dict[str, float], *, talking: bool) -> dict[str, float]:
    """Speech has the mouth to itself, apart from a trace of the mood."""
    kept = {n: w * (0.3 if talking and n.startswith(_MOUTH) else 1.0) for n, w in mood.items()}
    if talking:
        kept.pop("jawOpen", None)
    return {name: min(1.0, kept.get(name, 0.0) + said.get(name, 0.0)) for name in kept.keys() | said.keys()}


def _other_noise(start: Scene, frame: int) -> Degradation:
    """The camera's effects with noise of its own in each frame."""
    noise = start.effects.chain.noise
    if noise is None:
        return start.effects
    fresh = Noise(noise.sigma, (noise.seed + frame) % 2**31, noise.grey)
    return replace(start.effects, chain=replace(start.effects.chain, noise=fresh))
