"""Clips: blinks by their statistics, eyes that rest and jump, a smooth head, a mouth that speaks in time."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.render import Renderer, Scene, SceneSampler, coarse_face
from facewright.render.clips import CLOSING, Blink, Clip, closure, draw_blinks, make_clip
from facewright.render.visemes import Phone, Speech

NAMES = coarse_face().expression_names


@pytest.fixture(scope="module")
def start() -> Scene:
    scenes = (SceneSampler(coarse_face(), seed=5, size=64).scene(i) for i in range(99))
    return next(s for s in scenes if abs(s.pose[0]) < 15 and s.effects.chain.noise is not None)


@pytest.fixture(scope="module")
def clip(start: Scene) -> Clip:
    return make_clip(start, 1, NAMES, seconds=12, fps=50)


def test_blink_rates_are_the_published_ones() -> None:
    rng = np.random.default_rng(0)
    for rate in (4.5, 17.0, 26.0):
        blinks = draw_blinks(rng, 60 * 200, rate)
        assert len(blinks) / 200 == pytest.approx(rate, rel=0.06)
    gaps = np.diff([b.start for b in blinks])
    assert np.std(np.log(gaps)) == pytest.approx(0.6, abs=0.05)
    assert np.mean([b.shut - b.start for b in blinks]) == pytest.approx(CLOSING, rel=0.05)
    assert all(b.end - b.shut > b.shut - b.start for b in blinks)
    assert all(a.end <= b.start for a, b in zip(blinks, blinks[1:]))


def test_lids_close_fast_and_open_slowly() -> None:
    times = np.arange(0, 1, 0.001)
    closed = closure([Blink(0.3, 0.38, 0.58)], times)
    assert closed[[0, 299, 590]].max() == 0
    assert closed[380:399].min() == 1
    falling, rising = np.flatnonzero(closed >= 0.5)[[0, -1]] / 1000
    assert falling == pytest.approx(0.34, abs=0.002)
    assert rising == pytest.approx(0.49, abs=0.002)


def test_clip_is_one_person_in_one_place(clip: Clip, start: Scene) -> None:
    assert len(clip.scenes) == 600
    for name in ("identity", "look", "camera", "light", "backdrop", "person"):
        assert all(getattr(frame, name) == getattr(start, name) for frame in clip.scenes)
    assert [frame.index for frame in clip.scenes[:3]] == [start.index, start.index + 1, start.index + 2]
    assert len({frame.effects.chain.noise for frame in clip.scenes}) == 600


def test_equal_arguments_give_equal_clips(clip: Clip, start: Scene) -> None:
    assert make_clip(start, 1, NAMES, seconds=12, fps=50) == clip
    assert make_clip(start, 2, NAMES, seconds=12, fps=50).scenes != clip.scenes


def test_head_moves_smoothly(clip: Clip, start: Scene) -> None:
    pose = np.array([frame.pose for frame in clip.scenes])
    np.testing.assert_allclose(pose[0], start.pose, atol=1e-6)
    speed = np.diff(pose, axis=0) * clip.fps
    assert pose[:, 0].std() > 1
    assert np.abs(speed).max() < 80  # degrees a second
    assert np.abs(np.diff(speed, axis=0)).max() < 12


def test_eyes_rest_and_jump(clip: Clip) -> None:
    yaw = np.array([np.mean([eye[0] for eye in frame.gaze]) for frame in clip.scenes])
    step = np.abs(np.diff(yaw))
    assert (step < 1e-6).mean() > 0.7
    assert 15 < (step > 1).sum() < 120


def test_blinks_are_in_the_frames(clip: Clip) -> None:
    closed = np.array([frame.expression.get("eyeBlink_L", 0.0) for frame in clip.scenes])
    expected = closure(clip.blinks, np.arange(len(closed)) / clip.fps)
    np.testing.assert_allclose(closed, expected, atol=1e-9)
    assert closed.max() > 0.9


def test_speech_opens_the_rendered_mouth_in_time(start: Scene) -> None:
    phones = (
        *(Phone("", "sil", 0.0, 0.4), Phone("m", "PP", 0.4, 0.5), Phone("a", "aa", 0.5, 0.8)),
        *(Phone("p", "PP", 0.8, 0.9), Phone("", "sil", 0.9, 1.4)),
    )
    clip = make_clip(start, 0, NAMES, fps=20, speech=Speech("map", phones, None, "letters"))
    assert len(clip.scenes) == 28
    renderer = Renderer(coarse_face(), cast=False)
    opening = {
        time: renderer.render(clip.scenes[round(time * 20)]).mouth_opening for time in (0.1, 0.45, 0.65, 0.85, 1.3)
    }
    assert max(opening, key=opening.__getitem__) == 0.65
    assert opening[0.65] > 0.2 + max(value for time, value in opening.items() if time != 0.65)


def test_bad_wishes(start: Scene) -> None:
    with pytest.raises(UsageError, match="activity"):
        make_clip(start, 0, NAMES, activity="sleeping")
    with pytest.raises(UsageError, match="positive"):
        make_clip(start, 0, NAMES, seconds=0)
