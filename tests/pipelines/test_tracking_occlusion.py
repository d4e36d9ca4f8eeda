"""Identities through short occlusion: behind a passing thing, behind each other, and out of the detector's sight.

A made video: textured heads move over a textured room; the detector sees a head only while most of it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.face import Face
from facewright.pipelines.tracking import FaceTracker, TrackedFace, TrackerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HEIGHT, WIDTH, FPS = 160, 320, 25
RADIUS = 16
FIVE = np.array([(-0.5, -0.4), (0.5, -0.4), (0, 0.1), (-0.4, 0.6), (0.4, 0.6)])


def texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 20, 235, cv2.NORM_MINMAX), np.uint8)


ROOM = texture(0, HEIGHT, WIDTH)


@dataclass(frozen=True)
class Head:
    """A person: the look of the head and where its middle is in every frame."""

    seed: int
    path: Callable[[int], tuple[float, float]]

    def face(self, frame: int) -> Face:
        x, y = self.path(frame)
        points = FIVE * RADIUS + (x, y)
        box = np.array([x - RADIUS, y - 1.2 * RADIUS, x + RADIUS, y + 1.2 * RADIUS])
        return Face(box.astype(np.float32), 0.9, points.astype(np.float32))


def shot(heads: list[Head], frame: int, bar: int | None = None) -> tuple[NDArray[np.uint8], list[Face]]:
    """A frame and what a detector sees of it; later heads are in front, and before all of them a bar that starts at
    column `bar`."""
    picture, owner = ROOM.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, head in enumerate(heads, start=1):
        x, y = (round(v) for v in head.path(frame))
        skin = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        patch = texture(head.seed, 2 * RADIUS + 8, 2 * RADIUS)
        skin[y - RADIUS - 4 : y + RADIUS + 4, x - RADIUS : x + RADIUS] = patch
        cover = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(cover, (x, y), (RADIUS - 1, RADIUS + 3), 0, 0, 360, 1, -1)
        picture[cover > 0], owner[cover > 0] = skin[cover > 0], number
    if bar is not None:
        picture[:, max(0, bar) : max(0, bar + 24)], owner[:, max(0, bar) : max(0, bar + 24)] = (40, 60, 40), 0
    whole = np.pi * (RADIUS - 1) * (RADIUS + 3)
    seen = [head.face(frame) for n, head in enumerate(heads, start=1) if (owner == n).sum() > 0.6 * whole]
    return picture, seen


def follow(
    heads: list[Head],
    frames: int,
    bar: Callable[[int], int | None] = lambda i: None,
    options: TrackerOptions | None = None,
) -> list[list[TrackedFace]]:
    tracker = FaceTracker(options)
    return [tracker.update(*shot(heads, i, bar(i)), i / FPS) for i in range(frames)]


def number_at(tracked: list[TrackedFace], place: tuple[float, float]) -> int | None:
    """The number of the face whose middle is within a radius of a place; None where there is none."""
    near = [(float(np.hypot(*np.subtract(t.face.centre, place))), t.id) for t in tracked]
    distance, number = min(near, default=(np.inf, 0))
    return number if distance < RADIUS else None


def gap(heads: list[Head], index: int, frames: int, bar: Callable[[int], int | None]) -> int:
    """How many frames the detector misses a person in."""
    return sum(
        not any(np.allclose(f.box, heads[index].face(i).box) for f in shot(heads, i, bar(i))[1]) for i in range(frames)
    )


def test_a_thing_that_passes_before_a_face_does_not_change_its_number() -> None:
    heads = [Head(1, lambda i: (110, 80)), Head(2, lambda i: (220, 80))]
    bar = lambda i: 12 * i - 60  # noqa: E731
    assert all(2 <= gap(heads, k, 40, bar) <= 5 for k in (0, 1))
    video = follow(heads, 40, bar)
    for head, number in zip(heads, (number_at(video[0], h.path(0)) for h in heads)):
        assert number is not None
        assert [number_at(video[i], head.path(i)) for i in (20, 30, 39)] == [number] * 3
    assert {t.id for tracked in video for t in tracked} == {1, 2}


def test_a_walker_behind_another_gets_the_same_number_back() -> None:
    heads = [Head(1, lambda i: (60 + 5 * i, 80)), Head(2, lambda i: (160, 80))]
    missed = gap(heads, 0, 40, lambda i: None)
    assert 3 <= missed <= 10
    video = follow(heads, 40, options=TrackerOptions(max_gap=missed + 2))
    first = [number_at(video[0], h.path(0)) for h in heads]
    last = [number_at(video[39], h.path(39)) for h in heads]
    assert first == last
    assert len(set(first)) == 2


def test_the_one_in_front_keeps_its_number_while_somebody_crosses_behind() -> None:
    heads = [Head(1, lambda i: (60 + 5 * i, 80)), Head(2, lambda i: (160, 80))]
    video = follow(heads, 40)
    front = number_at(video[0], heads[1].path(0))
    assert front is not None
    assert all(number_at(tracked, heads[1].path(i)) is not None for i, tracked in enumerate(video))
    assert {t.id for t in video[39] if np.hypot(*np.subtract(t.face.centre, heads[1].path(39))) < RADIUS} == {front}


@pytest.mark.parametrize("missed", [1, 3, 5])
def test_a_moving_face_the_detector_overlooks_is_followed_by_flow_and_found_again(missed: int) -> None:
    head = Head(1, lambda i: (60 + 4 * i, 80))
    tracker, numbers, strays = FaceTracker(), [], []
    for i in range(30):
        picture, seen = shot([head], i)
        tracked = tracker.update(picture, [] if 12 <= i < 12 + missed else seen, i / FPS)
        numbers += [t.id for t in tracked]
        strays += [float(np.hypot(*np.subtract(tracked[0].face.centre, head.path(i))))]
    assert set(numbers) == {1}
    assert max(strays) < 0.5 * RADIUS


def test_a_long_absence_is_a_new_number() -> None:
    head = Head(1, lambda i: (110, 80))
    tracker = FaceTracker()
    shown = [tracker.update(shot([head], i)[0], [] if 10 <= i < 20 else shot([head], i)[1], i / FPS) for i in range(30)]
    assert {t.id for t in shown[9]} == {1}
    assert shown[19] == []
    assert {t.id for t in shown[29]} == {2}
