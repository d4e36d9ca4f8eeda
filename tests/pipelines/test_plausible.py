"""How much of a restoration is shown, by what networks say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.face import FaceCrop, Pose
from facewright.geometry.crop import template_face
from facewright.pipelines.likeness import Verdict
from facewright.pipelines.plausible import Plausibility, Treatment, smoothed, treated, without_detail

if TYPE_CHECKING:
    from types import SimpleNamespace

SIZE = 64
INPUT, OUTPUT, CALM = 100, 200, 60
HALF = (INPUT + OUTPUT) // 2
SURE, UNSURE = 3.5, 0.5


def flat(level: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), level, np.uint8)


class ByLevel:
    """Judges a flat picture by its grey level: (odds, sureness)."""

    def __init__(self, verdicts: dict[int, tuple[float, float]]) -> None:
        self.verdicts = verdicts

    def judge(self, crop: FaceCrop, face: Any) -> Verdict:
        return Verdict(*self.verdicts[int(crop.image.mean().round())])


CROP = FaceCrop(flat(INPUT), np.eye(2, 3), "ffhq", np.ones((SIZE, SIZE), bool))


NOISE = np.random.default_rng(0).integers(-20, 21, (SIZE, SIZE, 1))
NOISY = replace(CROP, image=np.clip(CROP.image + NOISE, 0, 255).astype(np.uint8))


def chosen(
    verdicts: dict[int, tuple[float, float]], crop: FaceCrop = CROP, *, ssim: float = 0.5, **face: Any
) -> tuple[Treatment, int]:
    plausibility = Plausibility(ByLevel({INPUT: (6.0, 1.2)} | verdicts))  # type: ignore[arg-type]
    there = replace(template_face(SIZE), **face)
    treatment, shown = plausibility.treat(crop, there, flat(OUTPUT), lambda crop: flat(CALM), ssim)
    return treatment, int(shown.mean().round())


@pytest.mark.parametrize(
    ("full", "calm", "half", "expected"),
    [
        ((8.0, SURE), None, None, (Treatment.FULL, OUTPUT)),
        ((5.2, SURE), None, None, (Treatment.FULL, OUTPUT)),  # a little less like a face
        ((2.0, SURE), (7.0, SURE), None, (Treatment.SMOOTHED, CALM)),
        ((7.5, UNSURE), (7.0, SURE), None, (Treatment.SMOOTHED, CALM)),  # crisp, but no landmark is sure
        ((2.0, SURE), (7.0, UNSURE), (6.0, SURE), (Treatment.HALF, HALF)),
        ((2.0, SURE), (2.0, SURE), (2.0, SURE), (Treatment.NONE, INPUT)),
    ],
)
def test_the_first_that_passes_is_shown(full: Any, calm: Any, half: Any, expected: tuple[Treatment, int]) -> None:
    known = {level: verdict for level, verdict in ((OUTPUT, full), (CALM, calm), (HALF, half)) if verdict}
    assert chosen(known) == expected


def test_a_face_that_never_makes_the_landmarks_sure_is_shown_when_they_are_no_less_sure() -> None:
    """As one in shadow, with glasses, or looking down."""
    calm = {CALM: (7.0, UNSURE), HALF: (7.0, UNSURE)}
    assert chosen({OUTPUT: (7.0, 1.1)} | calm) == (Treatment.FULL, OUTPUT)
    assert chosen({INPUT: (3.0, 1.2), OUTPUT: (4.0, 1.3)} | calm)[0] is Treatment.HALF  # not surely a face


def test_a_face_of_which_much_is_left_is_not_smoothed() -> None:
    """What is fine in it is the face."""
    verdicts = {OUTPUT: (7.5, UNSURE), CALM: (7.0, SURE), HALF: (6.0, SURE)}
    assert chosen(verdicts, ssim=0.8) == (Treatment.HALF, HALF)


def test_what_convinces_nobody_is_denoised_where_there_is_noise_and_never_blurred() -> None:
    verdicts = {OUTPUT: (7.0, UNSURE), CALM: (7.0, UNSURE), HALF: (7.0, UNSURE)}
    assert chosen(verdicts, NOISY) == (Treatment.DENOISED, OUTPUT)
    assert chosen(verdicts) == (Treatment.HALF, HALF)
    verdicts |= {OUTPUT: (2.0, UNSURE), HALF: (2.0, UNSURE)}
    assert chosen(verdicts, NOISY)[0] is Treatment.NONE


def test_beyond_doubt_a_fall_does_not_count() -> None:
    assert chosen({INPUT: (12.0, 3.0), OUTPUT: (3.5, SURE)})[0] is Treatment.FULL


def test_less_is_expected_of_a_face_seen_from_the_side() -> None:
    verdicts = {INPUT: (6.0, 2.2), OUTPUT: (7.0, 1.6), CALM: (0.0, 0.0), HALF: (6.0, 1.6)}
    found = [chosen(verdicts, pose=Pose(yaw, 0.0, 0.0))[0] for yaw in (0.0, -20.0, 35.0, -60.0)]
    assert found == [Treatment.HALF, Treatment.HALF, Treatment.FULL, Treatment.FULL]


def test_other_frames_are_treated_alike(fakes: SimpleNamespace) -> None:
    crop, output = fakes.textured(SIZE, SIZE), fakes.textured(SIZE, SIZE, seed=1)

    def shown(treatment: Treatment) -> np.ndarray:
        return treated(treatment, crop, output, lambda picture: 255 - picture)

    assert shown(Treatment.FULL) is output
    assert shown(Treatment.NONE) is crop
    np.testing.assert_allclose(shown(Treatment.HALF), (crop.astype(float) + output) / 2, atol=1)
    np.testing.assert_array_equal(shown(Treatment.SMOOTHED), 255 - smoothed(crop))
    assert (
        np.abs(np.diff(shown(Treatment.DENOISED).astype(int), axis=1)).mean()
        < np.abs(np.diff(output.astype(int), axis=1)).mean()
    )
    np.testing.assert_array_equal(shown(Treatment.DENOISED), without_detail(output))


def test_smoothing_takes_colour_noise_first() -> None:
    rng = np.random.default_rng(0)
    grey = np.clip(128 + 40 * np.sin(np.arange(256) / 20)[None, :, None] + np.zeros((256, 256, 3)), 0, 255)
    noisy = np.clip(grey + rng.normal(0, 25, (256, 256, 3)), 0, 255).astype(np.uint8)
    calm = smoothed(noisy)
    assert float(np.ptp(calm.astype(int), axis=2).mean()) < 0.1 * float(np.ptp(noisy.astype(int), axis=2).mean())
    assert np.abs(calm - grey).mean() < 4
