"""Drawing and applying degradations: LQ = JPEG(shrink(blur(HQ)) + noise), brought back to the size of HQ.

`sample` draws a record from a preset, `apply` makes the low-quality picture of a record, `target` the picture it is to
be restored to. Nothing is random in `apply`: equal records give equal bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from ..errors import UsageError
from .ageing import age, sample_ageing
from .colour import JITTER_STEPS, ColourChange, change_colour
from .kernels import Blur, blur_image
from .presets import Preset, Range, get_preset
from .printing import add_grain, screen, sharpen
from .record import STEPS, Chain, Degradation, Grain, Halftone, Noise, Patch, Sharpening, check_order

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

REFERENCE = 512
MIN_FACTOR = 0.8
INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}

Pixel = TypeVar("Pixel", np.uint8, np.float32)


def sample(
    preset: str | Preset,
    rng: np.random.Generator | int,
    size: int | tuple[int, int],
    *,
    scaled: bool = False,
    reference: int = REFERENCE,
    order: tuple[str, ...] | str | None = None,
) -> Degradation:
    """Draw one degradation for pictures of `size` (side, or (height, width)) pixels.

    By default the preset's ranges are used as they are, in pixels. With `scaled=True` they are taken to be meant for
    crops of `reference` px and every length (blur sigma and kernel size, shrinking factor, shift, patch) is multiplied
    by short side / reference, so that the same *part of a face* is lost; the shrinking factor stays at least 0.8.
    `order` overrides the preset's order of steps; "shuffle" draws one, with `up` last. `rng` may be a seed.
    """
    rules = get_preset(preset)
    random = np.random.default_rng(rng)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UsageError(f"cannot degrade a picture of {width}×{height} pixels")
    scale = min(height, width) / reference if scaled else 1.0
    return Degradation(
        preset=rules.name,
        size=(height, width),
        shift=_sample_shift(rules, random, scale),
        ageing=sample_ageing(rules.ageing, random) if rules.ageing else None,
        chain=_sample_chain(rules, random, scale, order),
        patch=_sample_patch(rules, random, scale, order, (height, width)),
        colour=_sample_colour(rules, random),
        colour_on_target=rules.colour_on_target,
    )


def apply(image: NDArray[Pixel], degradation: Degradation) -> NDArray[Pixel]:
    """The low-quality picture of a (H, W, 3) RGB picture, uint8 or float32 in [0, 1].

    Same type as the input, same size unless the record says `keep_small`; floats are rounded to multiples of 1/255.
    Raises UsageError if the picture is not of the size the record was drawn for.
    """
    x = _shifted(_to_float(image, degradation), degradation.shift)
    if degradation.ageing is not None:
        x = age(x, degradation.ageing)
    out = _run(x, degradation.chain, keep_small=degradation.keep_small)
    if degradation.patch is not None:
        out = _patched(out, x, degradation.patch)
    out = change_colour(np.clip(out, 0, 1), degradation.colour)
    return _like(out, image)


def target(image: NDArray[Pixel], degradation: Degradation) -> NDArray[Pixel]:
    """What the degraded picture is to be restored to: `image` with the changes that hit both pictures of a pair."""
    x = _shifted(_to_float(image, degradation), degradation.shift)
    if degradation.colour_on_target:
        x = change_colour(x, degradation.colour)
    return _like(x, image)


def degrade(
    image: NDArray[Pixel],
    preset: str | Preset = "gfpgan",
    rng: np.random.Generator | int = 0,
    *,
    scaled: bool = False,
    order: tuple[str, ...] | str | None = None,
) -> tuple[NDArray[Pixel], Degradation]:
    """Draw a degradation for a (H, W, 3) picture and apply it; see `sample` and `apply`."""
    degradation = sample(preset, rng, (image.shape[0], image.shape[1]), scaled=scaled, order=order)
    return apply(image, degradation), degradation


def degrade_photo(
    rgb: NDArray[np.uint8],
    preset: str | Preset = "gfpgan",
    seed: int = 0,
    *,
    keep_small: bool = False,
    face_size: float | None = None,
    order: tuple[str, ...] | str | None = None,
) -> tuple[NDArray[np.uint8], Degradation]:
    """Degrade a whole photo, (H, W, 3) uint8 RGB of any size; returns the result and the drawn record.

    Presets describe aligned face crops of 512 px. `face_size`, the side such a crop would have in this photo, scales
    them to the faces at hand; None uses the ranges in photo pixels. `keep_small` returns the shrunken picture as it
    is, without enlarging it again (an uneven patch is then left out).
    """
    rules = get_preset(preset)
    short = min(rgb.shape[:2])
    scaled = face_size is not None
    reference = round(REFERENCE * short / face_size) if face_size else REFERENCE
    drawn = sample(rules, seed, (rgb.shape[0], rgb.shape[1]), scaled=scaled, reference=max(1, reference), order=order)
    if keep_small:
        drawn = replace(drawn, keep_small=True, patch=None)
    return apply(rgb, drawn), drawn


def degrade_batch(
    images: Tensor,
    preset: str | Preset = "gfpgan",
    rng: np.random.Generator | int = 0,
    *,
    scaled: bool = False,
    order: tuple[str, ...] | str | None = None,
) -> tuple[Tensor, list[Degradation]]:
    """Degrade every picture of an (N, 3, H, W) float tensor in [0, 1], each by a draw of its own.

    Returns a tensor of the same shape, type and device, and the N records. Works on the CPU, without gradient.
    """
    import torch

    random = np.random.default_rng(rng)
    pictures = images.detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
    pairs = [degrade(np.ascontiguousarray(p), preset, random, scaled=scaled, order=order) for p in pictures]
    stacked = torch.from_numpy(np.stack([low for low, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    return stacked.to(images.device, images.dtype), [record for _, record in pairs]


def eased(preset: str | Preset, severity: float) -> Preset:
    """A preset between no degradation (`severity` 0) and its full ranges (1): for a curriculum.

    The far ends of blur, shrinking, noise and JPEG quality move linearly; probabilities stay.
    """
    rules = get_preset(preset)
    k = float(np.clip(severity, 0, 1))

    def towards(rest: float, bounds: Range) -> Range:
        return rest + k * (bounds[0] - rest), rest + k * (bounds[1] - rest)

    return replace(
        rules,
        sigma=towards(0, rules.sigma),
        down=towards(1, rules.down),
        noise=towards(0, rules.noise),
        jpeg=towards(100, rules.jpeg),
    )


def _sample_chain(rules: Preset, rng: np.random.Generator, scale: float, order: tuple[str, ...] | str | None) -> Chain:
    noise = None
    if _chance(rules.p_noise, rng):
        noise = Noise(float(rng.uniform(*rules.noise)), int(rng.integers(2**31)), _chance(rules.p_grey_noise, rng))
    return Chain(
        order=_sample_order(order or rules.order, rng),
        blur=_sample_blur(rules, rng, scale) if _chance(rules.p_blur, rng) else None,
        haze=float(rng.uniform(*rules.haze_alpha)) if _chance(rules.p_haze, rng) else 1.0,
        factor=_sample_factor(rules, rng, scale) if _chance(rules.p_down, rng) else 1.0,
        interpolation=_one_of(rules.shrink_by, rng) or rules.interpolation,
        enlarging=_one_of(rules.enlarge_by, rng),
        noise=noise,
        jpeg=round(rng.uniform(*rules.jpeg)) if _chance(rules.p_jpeg, rng) else None,
        grain=_sample_grain(rules, rng, scale) if _chance(rules.p_grain, rng) else None,
        halftone=_sample_halftone(rules, rng, scale) if _chance(rules.p_halftone, rng) else None,
        sharpening=_sample_sharpening(rules, rng) if _chance(rules.p_sharpen, rng) else None,
    )


def _sample_grain(rules: Preset, rng: np.random.Generator, scale: float) -> Grain:
    sigma, size = float(rng.uniform(*rules.grain)), float(rng.uniform(*rules.grain_size)) * scale
    return Grain(sigma, size, int(rng.integers(2**31)))


def _sample_halftone(rules: Preset, rng: np.random.Generator, scale: float) -> Halftone:
    pitch = max(2.0, float(rng.uniform(*rules.screen_pitch)) * scale)  # no finer screen can be drawn
    angle, ink = float(rng.uniform(0, np.pi / 2)), float(rng.uniform(*rules.screen_ink))
    return Halftone(pitch, angle, ink, _chance(0.5, rng))


def _sample_sharpening(rules: Preset, rng: np.random.Generator) -> Sharpening:
    return Sharpening(float(rng.uniform(*rules.sharpen)), float(rng.uniform(*rules.sharpen_sigma)))


def _one_of(names: tuple[str, ...], rng: np.random.Generator) -> str:
    return str(rng.choice(names)) if names else ""


def _sample_order(order: tuple[str, ...] | str, rng: np.random.Generator) -> tuple[str, ...]:
    if order == "shuffle":
        return (*(str(step) for step in rng.permutation(STEPS[:-1])), "up")
    if isinstance(order, str):
        raise UsageError(f"degradation order must be 'shuffle' or a sequence of steps, not {order!r}")
    check_order(tuple(order))
    return tuple(order)


def _sample_blur(rules: Preset, rng: np.random.Generator, scale: float) -> Blur:
    half = int(rng.choice(rules.kernel_sizes)) // 2
    size = 2 * max(1, round(half * scale)) + 1
    if rules.motion is not None and _chance(rules.motion.share, rng):
        length = float(rng.uniform(*rules.motion.length)) * scale
        needed = 2 * int(np.ceil(length / 2)) + 1
        return Blur("motion", needed, length=length, theta=float(rng.uniform(-np.pi, np.pi)))
    sigma_x = float(rng.uniform(*rules.sigma)) * scale
    if _chance(rules.p_iso, rng):
        return Blur("iso", size, sigma_x, sigma_x)
    sigma_y = float(rng.uniform(*rules.sigma)) * scale
    return Blur("aniso", size, sigma_x, sigma_y, float(rng.uniform(-np.pi, np.pi)))


def _sample_factor(rules: Preset, rng: np.random.Generator, scale: float) -> float:
    low, high = (max(min(MIN_FACTOR, rules.down[0]), bound * scale) for bound in rules.down)
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))) if rules.down_log else rng.uniform(low, high))
    return round(factor / rules.down_step) * rules.down_step if rules.down_step else factor


def _sample_shift(rules: Preset, rng: np.random.Generator, scale: float) -> tuple[int, int]:
    if not _chance(rules.p_shift, rng):
        return 0, 0
    reach = round(rules.shift_px * scale)
    x, y = rng.integers(-reach, reach, size=2, endpoint=True)
    return int(x), int(y)


def _sample_patch(
    rules: Preset,
    rng: np.random.Generator,
    scale: float,
    order: tuple[str, ...] | str | None,
    size: tuple[int, int],
) -> Patch | None:
    if not _chance(rules.p_patch, rng):
        return None
    side = min(*size, max(1, round(rng.uniform(*rules.patch_side) * scale)))
    x, y = (int(rng.integers(0, room - side, endpoint=True)) for room in (size[1], size[0]))
    return Patch(x, y, side, _sample_chain(rules, rng, scale, order))


def _sample_colour(rules: Preset, rng: np.random.Generator) -> ColourChange:
    change = ColourChange(grey=_chance(rules.p_grey, rng))
    if _chance(rules.p_colour_shift, rng):
        r, g, b = (float(v) for v in rng.uniform(-rules.colour_shift, rules.colour_shift, 3))
        change = replace(change, shift=(r, g, b))
    if _chance(rules.p_jitter, rng):
        change = replace(
            change,
            brightness=float(rng.uniform(*rules.jitter.brightness)),
            contrast=float(rng.uniform(*rules.jitter.contrast)),
            saturation=float(rng.uniform(*rules.jitter.saturation)),
            hue=float(rng.uniform(*rules.jitter.hue)),
            steps=tuple(str(step) for step in rng.permutation(JITTER_STEPS)),
        )
    return change


def _chance(probability: float, rng: np.random.Generator) -> bool:
    """True with that probability; certain outcomes draw nothing."""
    return probability >= 1 or (probability > 0 and bool(rng.random() < probability))


def _run(image: NDArray[np.float32], chain: Chain, *, keep_small: bool) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    low = (max(1, int(width // chain.factor)), max(1, int(height // chain.factor)))
    out = image
    for step in chain.order:
        if step == "blur":
            out = blur_image(out, chain.blur) if chain.blur is not None else out
            out = out * np.float32(chain.haze) + np.float32(1 - chain.haze) if chain.haze < 1 else out
            out = add_grain(out, chain.grain) if chain.grain is not None else out
            out = screen(out, chain.halftone) if chain.halftone is not None else out
        elif step == "down":
            out = _resized(out, low, chain.interpolation)
        elif step == "up" and not keep_small:
            # Shrinking by area has no counterpart for enlarging: the plain bilinear one.
            same = "linear" if chain.interpolation == "area" else chain.interpolation
            out = _resized(out, (width, height), chain.enlarging or same)
        elif step == "noise":
            out = _noisy(out, chain.noise) if chain.noise is not None else out
            out = sharpen(out, chain.sharpening) if chain.sharpening is not None else out
        elif step == "jpeg" and chain.jpeg is not None:
            out = _through_jpeg(out, chain.jpeg)
    return out


def _resized(image: NDArray[np.float32], size: tuple[int, int], interpolation: str) -> NDArray[np.float32]:
    if size == (image.shape[1], image.shape[0]):
        return image
    if interpolation not in INTERPOLATION:
        raise UsageError(f"unknown interpolation {interpolation!r}; choose from {', '.join(INTERPOLATION)}")
    return np.asarray(cv2.resize(image, size, interpolation=INTERPOLATION[interpolation]))


def _noisy(image: NDArray[np.float32], noise: Noise) -> NDArray[np.float32]:
    shape = (*image.shape[:2], 1) if noise.grey else image.shape
    values = np.random.default_rng(noise.seed).standard_normal(shape, dtype=np.float32)
    return np.clip(image + values * np.float32(noise.sigma / 255), 0, 1)


def _through_jpeg(image: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    bgr = cv2.cvtColor(_to_bytes(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255))


def _patched(base: NDArray[np.float32], source: NDArray[np.float32], patch: Patch) -> NDArray[np.float32]:
    """The whole picture goes through the patch's chain, so that the patch has no border effects of its own."""
    inside = np.s_[patch.y : patch.y + patch.side, patch.x : patch.x + patch.side]
    out = base.copy()
    out[inside] = _run(source, patch.chain, keep_small=False)[inside]
    return out


def _shifted(image: NDArray[np.float32], shift: tuple[int, int]) -> NDArray[np.float32]:
    """Content moved by whole pixels; the uncovered border shows the mirrored picture."""
    x, y = shift
    if x == 0 and y == 0:
        return image
    pad = ((max(y, 0), max(-y, 0)), (max(x, 0), max(-x, 0)), (0, 0))
    top, left = max(-y, 0), max(-x, 0)
    return np.pad(image, pad, mode="symmetric")[top : top + image.shape[0], left : left + image.shape[1]]


def _to_float(image: NDArray[Pixel], degradation: Degradation) -> NDArray[np.float32]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.float32):
        raise UsageError(f"degradation needs (H, W, 3) uint8 or float32, not {image.shape} {image.dtype}")
    if image.shape[:2] != degradation.size:
        height, width = degradation.size
        raise UsageError(
            f"this degradation was drawn for {width}×{height} pixels, the picture has {image.shape[1]}×{image.shape[0]}"
        )
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


def _to_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _like(image: NDArray[np.float32], original: NDArray[Pixel]) -> NDArray[Pixel]:
    pixels = _to_bytes(image)
    if original.dtype == np.uint8:
        return pixels  # type: ignore[return-value]
    return pixels.astype(np.float32) / np.float32(255)  # type: ignore[return-value]
