"""Degradation: the low-quality pictures that restorers learn from, seeded, reproducible, with every draw on record."""

from .ageing import Ageing, AgeingRange, age
from .colour import ColourChange, change_colour
from .engine import apply, degrade, degrade_batch, degrade_photo, eased, sample, target
from .kernels import Blur, blur_image, gaussian_kernel, kernel, motion_kernel
from .presets import PRESETS, JitterRange, MotionRange, Preset, get_preset
from .record import Chain, Degradation, Grain, Halftone, Noise, Patch, Sharpening

__all__ = [
    "PRESETS",
    "Ageing",
    "AgeingRange",
    "Blur",
    "Chain",
    "ColourChange",
    "Degradation",
    "Grain",
    "Halftone",
    "JitterRange",
    "MotionRange",
    "Noise",
    "Patch",
    "Preset",
    "Sharpening",
    "age",
    "apply",
    "blur_image",
    "change_colour",
    "degrade",
    "degrade_batch",
    "degrade_photo",
    "eased",
    "gaussian_kernel",
    "get_preset",
    "kernel",
    "motion_kernel",
    "sample",
    "target",
]
