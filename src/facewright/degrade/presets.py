"""The degradations that published face restorers were trained on, by name.

All ranges are for face crops of 512 px, as published; `facewright.degrade.sample(..., scaled=True)` converts them to
crops of another size.

| preset | source |
| --- | --- |
| gfpgan | GFPGAN (CVPR 2021), released training code; degrades colours too |
| vqfr | VQFR (ECCV 2022): the same ranges without colour changes |
| restoreformer | RestoreFormer (CVPR 2022) |
| restoreformer++ | RestoreFormer++ (TPAMI 2023), extended degradation model, released training code |
| restoreformer++-paper | the ranges printed in that paper, which differ from its code |
| codeformer | CodeFormer (NeurIPS 2022), stage III, small degradation |
| codeformer-large | CodeFormer, stage II and "large" degradation of stage III |
| ref-ldm | ReF-LDM (NeurIPS 2024) |
| dfdnet | DFDNet (ECCV 2020); its 32 recorded motion kernels are replaced by straight-line motion |
| severe | our hard setting for FRGP |
| small | a face far from the camera: area-averaged to a tenth at most, with a little noise and JPEG |
| far | a small face as phones and the web have it: shrunk and enlarged by any usual filter, JPEG at its own size |
| mixed | any of blur (also of motion), shrinking, noise and JPEG, alone or together, as in pictures people have |
| soft | a 512 px face as albums have it: out of focus, shrunk and enlarged, grain, print screen, sharpening, JPEG |
| half, quarter, eighth | a soft portrait shrunk to that share and back by any filter, with light noise and JPEG |
| compressed, shaken | one damage alone: JPEG of any quality; blur by a moving hand, with a little noise and JPEG |
| mild, clean | our easy setting; no degradation at all |
| old-photo | our ageing model of prints and film (`facewright.degrade.ageing`) before a mild degradation |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UsageError
from .ageing import AgeingRange

Range = tuple[float, float]

DEFAULT_ORDER = ("blur", "down", "noise", "jpeg", "up")


@dataclass(frozen=True, slots=True)
class JitterRange:
    """Ranges of the photometric jitter: three factors, and the hue rotation in turns."""

    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.0, 1.5)
    hue: Range = (-0.1, 0.1)


@dataclass(frozen=True, slots=True)
class MotionRange:
    """Straight-line motion blur: its share among the blurs and its length in pixels."""

    share: float
    length: Range


@dataclass(frozen=True, slots=True)
class Preset:
    """Ranges and probabilities from which one degradation is drawn.

    `sigma` of the blur in pixels; `kernel_sizes` the odd sizes drawn from; `down` the factor by which the picture
    shrinks (below 1 enlarges), `down_step` its granularity (0: continuous), `down_log` whether all ratios are equally
    likely instead of all factors; `shrink_by` and `enlarge_by` the filters drawn from, where empty `interpolation`;
    `noise` the standard deviation in grey levels of 255; `jpeg` the quality; `p_*` the probability of each step.
    `shift_px` moves the picture (and the target) by up to that many pixels, `haze_alpha` blends it with white,
    `patch_side` is the side of a square that gets a degradation of its own. `grain` is film grain in grey levels and
    `grain_size` that of its clumps; `screen_pitch` and `screen_ink` the dots of a print; `sharpen` and `sharpen_sigma`
    amount and radius of an unsharp mask. `colour_on_target` says that greying and
    jitter hit the target as well.
    """

    name: str
    sigma: Range
    down: Range
    noise: Range
    jpeg: Range
    order: tuple[str, ...] = DEFAULT_ORDER
    kernel_sizes: tuple[int, ...] = (41,)
    p_iso: float = 0.5
    motion: MotionRange | None = None
    interpolation: str = "linear"
    down_step: float = 0.0
    down_log: bool = False
    shrink_by: tuple[str, ...] = ()
    enlarge_by: tuple[str, ...] = ()
    p_blur: float = 1.0
    p_down: float = 1.0
    p_noise: float = 1.0
    p_jpeg: float = 1.0
    p_grey_noise: float = 0.0
    p_colour_shift: float = 0.0
    colour_shift: float = 20 / 255
    p_jitter: float = 0.0
    jitter: JitterRange = JitterRange()
    p_grey: float = 0.0
    colour_on_target: bool = False
    p_shift: float = 0.0
    shift_px: float = 32.0
    p_haze: float = 0.0
    haze_alpha: Range = (0.75, 0.95)
    p_patch: float = 0.0
    patch_side: Range = (128.0, 256.0)
    ageing: AgeingRange | None = None
    p_grain: float = 0.0
    grain: Range = (3, 16)
    grain_size: Range = (0.3, 1.4)
    p_halftone: float = 0.0
    screen_pitch: Range = (2.5, 7.0)
    screen_ink: Range = (0.15, 0.6)
    p_sharpen: float = 0.0
    sharpen: Range = (0.3, 1.5)
    sharpen_sigma: Range = (0.6, 1.6)


_ANY_SHRINKING = ("area", "area", "linear", "cubic", "lanczos")  # averaging is the most usual
_ANY_ENLARGING = ("linear", "cubic", "lanczos")


def _portrait(name: str, factor: float) -> Preset:
    """A soft portrait that was kept small: blurred as shrinking wants it, with light noise and JPEG at its own size."""
    return Preset(
        name,
        sigma=(0.3 * factor, 0.5 * factor),
        down=(factor, factor),
        noise=(1, 4),
        jpeg=(75, 95),
        p_iso=1.0,
        shrink_by=_ANY_SHRINKING,
        enlarge_by=_ANY_ENLARGING,
    )


_VQFR = Preset("vqfr", sigma=(0.1, 10), down=(0.8, 8), noise=(0, 20), jpeg=(60, 100))
_EDM = replace(
    _VQFR,
    name="restoreformer++",
    kernel_sizes=(39, 41),
    p_shift=0.2,
    p_haze=0.008,
    p_patch=0.1,
    p_grey=0.008,
    colour_on_target=True,
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        replace(_VQFR, name="gfpgan", p_colour_shift=0.3, p_jitter=0.3, p_grey=0.01),
        _VQFR,
        replace(_VQFR, name="restoreformer", kernel_sizes=(39, 41)),
        _EDM,
        replace(_EDM, name="restoreformer++-paper", sigma=(0.2, 10), down=(1, 8), haze_alpha=(0.7, 1.0)),
        Preset("codeformer", sigma=(0.1, 10), down=(1, 12), noise=(0, 15), jpeg=(60, 100)),
        Preset("codeformer-large", sigma=(1, 15), down=(4, 30), noise=(0, 20), jpeg=(30, 80)),
        Preset("ref-ldm", sigma=(0, 16), down=(1, 32), noise=(0, 20), jpeg=(30, 100)),
        Preset(
            "dfdnet",
            sigma=(0.3, 2),
            down=(2, 10),
            noise=(1, 10),
            jpeg=(40, 80),
            kernel_sizes=tuple(range(3, 36, 2)),
            p_iso=1.0,
            motion=MotionRange(share=0.35, length=(4, 24)),
            interpolation="cubic",
            down_step=0.1,
            p_blur=0.9,
            p_down=0.95,
            p_noise=0.9,
            p_jpeg=0.6,
            p_jitter=1.0,
            jitter=JitterRange((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (0.0, 0.0)),
            colour_on_target=True,
        ),
        Preset("severe", sigma=(0.1, 10), down=(0.8, 16), noise=(0, 20), jpeg=(30, 100)),
        Preset("mild", sigma=(0.1, 3), down=(1, 3), noise=(0, 8), jpeg=(70, 100)),
        Preset(
            "small",
            sigma=(0, 0),
            down=(1, 10),
            noise=(0, 6),
            jpeg=(70, 100),
            interpolation="area",
            p_blur=0,
            p_noise=0.5,
            p_jpeg=0.6,
        ),
        Preset(
            "far",
            sigma=(0, 0),
            down=(1.5, 12),
            noise=(0, 6),
            jpeg=(60, 98),
            down_log=True,
            shrink_by=_ANY_SHRINKING,
            enlarge_by=_ANY_ENLARGING,
            p_blur=0,
            p_noise=0.4,
            p_jpeg=0.7,
        ),
        Preset(
            "mixed",
            sigma=(0.3, 7),
            down=(1.2, 8),
            noise=(2, 35),
            jpeg=(5, 80),
            down_log=True,
            shrink_by=_ANY_SHRINKING,
            enlarge_by=_ANY_ENLARGING,
            motion=MotionRange(share=0.2, length=(4, 24)),
            p_iso=0.6,
            p_blur=0.35,
            p_down=0.35,
            p_noise=0.35,
            p_jpeg=0.6,
            p_grey_noise=0.3,
        ),
        Preset(
            "soft",
            sigma=(0.4, 4.5),
            down=(1, 16),
            noise=(0, 14),
            jpeg=(35, 98),
            down_log=True,
            shrink_by=_ANY_SHRINKING,
            enlarge_by=_ANY_ENLARGING,
            motion=MotionRange(share=0.06, length=(3, 12)),
            p_iso=0.75,
            p_blur=0.65,
            p_down=0.85,
            p_noise=0.6,
            p_jpeg=0.7,
            p_grey_noise=0.4,
            p_grey=0.15,
            colour_on_target=True,
            p_grain=0.25,
            p_halftone=0.08,
            p_sharpen=0.25,
        ),
        *(_portrait(name, factor) for name, factor in (("half", 2.0), ("quarter", 4.0), ("eighth", 8.0))),
        Preset("compressed", sigma=(0, 0), down=(1, 1), noise=(0, 0), jpeg=(5, 80), p_blur=0, p_down=0, p_noise=0),
        Preset(
            "shaken",
            sigma=(0.3, 2),
            down=(1, 1),
            noise=(0, 6),
            jpeg=(70, 100),
            motion=MotionRange(share=0.9, length=(4, 24)),
            p_down=0,
            p_noise=0.5,
            p_jpeg=0.5,
        ),
        Preset("clean", (0, 0), (1, 1), (0, 0), (100, 100), p_blur=0, p_down=0, p_noise=0, p_jpeg=0),
        Preset(
            "old-photo",
            sigma=(0.6, 1.6),
            down=(1.5, 3),
            noise=(1, 4),
            jpeg=(65, 90),
            p_iso=1.0,
            interpolation="area",
            ageing=AgeingRange(),
        ),
    )
}


def get_preset(preset: str | Preset) -> Preset:
    """A preset by name (a `Preset` passes through). Raises UsageError with the list of names."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise UsageError(f"unknown degradation preset {preset!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[preset]
