"""DFDNet: restoration by swapping the best matching eyes, noses and mouths of good photos into deep features.

Paper: Li, Chen, Zhou, Lin, Zuo, Zhang, "Blind Face Restoration via Deep Multi-scale Component Dictionaries" (ECCV 2020,
arXiv 2008.00418). The network is that of the published code (csxmli2016/DFDNet), so its checkpoint and its dictionaries
load and compute the same. How dictionaries are built was never published; `build_dictionaries` follows the paper
(section 3.1): features of good faces at four scales, cut around the components, clustered by k-means.

Besides VGG-19, the features can come from the embedded recogniser (`sface` in
configurations: its first name); that form is this project's.
"Left" is the picture's left throughout.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ....errors import UsageError, WeightsError
from ....geometry.crop import CropSpec
from ....nn.inference import AutocastCopy, sharing_copy
from ....nn.iresnet import IResNet
from ....nn.stylegan2 import leaky, upsample_bilinear
from ....nn.vgg import VGG
from ....tasks.card import Preprocess
from ...base import System, refuse_seed
from ...recognise.distilledface.network import DistilledFaceConfig
from ..runs import restored_in_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Features = Literal["vgg19", "sface"]

PARTS = ("left_eye", "right_eye", "nose", "mouth")
REDUCTIONS = (2, 4, 8, 16)
"""How much smaller than the picture the four feature maps are."""
LANDMARKS = {
    "left_eye": (*range(17, 22), *range(36, 42)),
    "right_eye": (*range(22, 27), *range(42, 48)),
    "nose": tuple(range(29, 36)),
    "mouth": tuple(range(48, 68)),
}
"""Which of iBUG's 68 points belong to a component; the eyes include their brows."""
_REFERENCE = 512
_SMALLEST_HALF = 16
# where the components lie on average in upright faces on the `ffhq` template
_UPRIGHT = ((149, 188, 234, 273), (279, 188, 364, 273), (228, 295, 287, 354), (200, 324, 314, 438))
_EPS = 1e-5
FINGERPRINT = "fingerprint"
"""Name under which dictionaries carry the fingerprint of their features, uint8 (2, 8); see `fingerprint`."""
_HALF = 16
_ATOMS_AT_ONCE = 64
_POINTS_AT_ONCE = 256


@dataclass(frozen=True)
class DFDNetConfig:
    """Shape of a DFDNet; the defaults are the published size (512 px, 113.3 M parameters with VGG's trunk).

    features: what the dictionaries are made of, VGG-19 or the embedded recogniser (`sface`). width: channels at full
    resolution. atoms: entries of every dictionary, 0 for none yet. part_sizes: sides of left eye, right eye, nose and
    mouth in pixels, which set the size of their atoms. dictionary_features: `fingerprint` of the features the
    dictionaries were made in, empty where that was not noted.
    """

    size: int = 512
    features: Features = "vgg19"
    width: int = 64
    atoms: int = 512
    part_sizes: tuple[int, ...] = (80, 80, 50, 110)
    dictionary_features: str = ""

    @classmethod
    def compact(cls) -> Self:
        """256 px crops and the features of the embedded recogniser."""
        return cls(size=256, features="sface", width=24, atoms=32, part_sizes=(40, 40, 25, 55))

    def dictionary_shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """(atoms, channels, side, side) of every dictionary, by name: `left_eye_256` is that of the 256-px features."""
        widths = EXTRACTORS[self.features].widths
        return {
            f"{part}_{self.size // reduction}": (self.atoms, channels, side, side)
            for reduction, channels in zip(REDUCTIONS, widths)
            for part, side in zip(PARTS, (max(2, size // reduction) for size in self.part_sizes))
        }


# Features


class VGGFeatures(nn.Module):
    """VGG-19 at 1/2, 1/4, 1/8 and 1/16; the last map is before its ReLU, as published."""

    widths: ClassVar[tuple[int, ...]] = (128, 256, 512, 512)

    def __init__(self) -> None:
        super().__init__()
        self.network = VGG(19, until="conv5_4")

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(image, ("relu2_2", "relu3_4", "relu4_4", "conv5_4"))
        return maps


class RecogniserFeatures(nn.Module):
    """The four stages of the embedded recogniser; `network` takes the weights of its `backbone`."""

    widths: ClassVar[tuple[int, ...]] = DistilledFaceConfig.compact().widths

    def __init__(self) -> None:
        super().__init__()
        shape = DistilledFaceConfig.compact()
        self.network = IResNet(shape.blocks, shape.dim, widths=shape.widths, patch=2, pooling="depthwise")
        # the recogniser's own start leaves the scale to batch statistics, which are not taken here
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.network.feature_maps(image)


EXTRACTORS: dict[str, type[VGGFeatures] | type[RecogniserFeatures]] = {
    "vgg19": VGGFeatures,
    "sface": RecogniserFeatures,
}


def fingerprint(extractor: nn.Module) -> str:
    """What tells one feature network's weights from another's: 32 hexadecimal digits.

    The first half is the start of the SHA-256 over the names and values of all floating tensors rounded to bfloat16,
    the second that of float16. Weights packed in either type keep that half, as rounding twice to the same type changes
    nothing; so two fingerprints agree when one of their halves does (`same_features`).
    """
    weights = {k: v for k, v in sorted(extractor.state_dict().items()) if v.is_floating_point()}
    return "".join(_digest(weights, dtype) for dtype in (torch.bfloat16, torch.float16))


def _digest(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for name, values in weights.items():
        digest.update(f"{name} {tuple(values.shape)};".encode())
        digest.update(values.to("cpu", dtype).contiguous().view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()[:_HALF]


def same_features(a: str, b: str) -> bool:
    """Whether two fingerprints are of the same weights, whatever precision each was stored in."""
    return a[:_HALF] == b[:_HALF] or a[_HALF:] == b[_HALF:]


# Components


def component_boxes(landmarks: NDArray[np.floating], size: int = _REFERENCE) -> NDArray[np.int64]:
    """Square boxes of the four components from iBUG's 68 points.

    landmarks: (..., 68, 2) in pixels of a crop of `size`. Returns (..., 4, 4): x0, y0, x1, y1 (end-exclusive) in the
    order of `PARTS`. The side follows the spread of the points, at least 32 px at 512.
    """
    if landmarks.shape[-2:] != (68, 2):
        raise UsageError(f"component boxes need (…, 68, 2) landmarks, not {landmarks.shape}")
    boxes = []
    for part in PARTS:
        points = landmarks[..., LANDMARKS[part], :]
        middle = points.mean(-2)
        half = np.maximum(np.ptp(points, axis=-2).max(-1) / 2, _SMALLEST_HALF * size / _REFERENCE)[..., None]
        boxes.append(np.concatenate([np.trunc(middle - half + 1), np.trunc(middle + half)], -1))
    return np.stack(boxes, -2).astype(np.int64)


def upright_boxes(size: int) -> NDArray[np.int64]:
    """Boxes (4, 4) of an upright frontal face on the `ffhq` template, for crops without landmarks."""
    return np.rint(np.array(_UPRIGHT) * (size / _REFERENCE)).astype(np.int64)


def _regions(boxes: NDArray[np.int64], part: int, reduction: int, shape: Sequence[int]) -> list[tuple[slice, slice]]:
    """Rows and columns of one component in the feature maps of every picture; empty where it lies outside."""
    low = np.maximum(boxes[:, part] // reduction, 0)
    return [(slice(y0, min(y1, shape[-2])), slice(x0, min(x1, shape[-1]))) for x0, y0, x1, y1 in low.tolist()]


def _is_empty(region: tuple[slice, slice]) -> bool:
    return any(axis.stop <= axis.start for axis in region)


def _resized(crop: Tensor, side: int) -> Tensor:
    return F.interpolate(crop, (side, side), mode="bilinear", align_corners=False)


# Dictionary feature transfer (section 3.2)


def _deviation(x: Tensor) -> Tensor:
    """Unbiased standard deviation over the last axis, never zero."""
    return (x.var(-1) + _EPS).sqrt()


def recolour(atoms: Tensor, query: Tensor) -> Tensor:
    """AdaIN: (N, C, h, w) atoms with the mean and deviation of every channel taken from the query."""
    a, q = atoms.flatten(2), query.flatten(2)
    out = (a - a.mean(-1, keepdim=True)) / _deviation(a)[..., None] * _deviation(q)[..., None] + q.mean(-1, True)
    return out.view_as(atoms)


@torch.no_grad()
def best_atoms(query: Tensor, atoms: Tensor) -> Tensor:
    """For each of (N, C, h, w) queries the atom (K, C, h, w) whose recoloured form has the largest inner product.

    The inner product is taken channel by channel, so that no recoloured dictionary has to be made: with s the
    deviations and m the atom's mean, it is Σ s_q / s_a · (⟨q, a⟩ − m Σq) up to a term that is equal for all atoms.
    """
    scores = []
    with torch.autocast(query.device.type, enabled=False):
        q = query.float().flatten(2)
        total, deviation = q.sum(-1)[:, None], _deviation(q)[:, None]
        for some in torch.split(atoms, _ATOMS_AT_ONCE):
            a = some.float().flatten(2)
            match = torch.einsum("ncp,kcp->nkc", q, a) - total * a.mean(-1)
            scores.append((match * deviation / _deviation(a)).sum(-1))
    return torch.cat(scores, 1).argmax(1)


# The network


def _conv(c_in: int, c_out: int, dilation: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(c_in, c_out, 3, 1, dilation, dilation))


def _two_convs(c_in: int, c_out: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(c_in, c_out, dilation), nn.LeakyReLU(0.2), _conv(c_out, c_out, dilation))


class DilatedBlock(nn.Module):
    """Four branches of dilation 4, 3, 2, 1, merged and added to the input; (N, C, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_two_convs(channels, channels, dilation) for dilation in (4, 3, 2, 1))
        self.merge = _conv(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.merge(torch.cat([branch(x) for branch in self.branches], 1))
        return merged + x


class StyledUpBlock(nn.Module):
    """Low pass and convolution, modulated by scale and shift of the transferred features, then doubled in size.

    forward: x and transferred (N, c_in, H, W) to (N, c_out, 2H, 2W).
    """

    kernel: Tensor

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = _conv(c_in, c_out)
        self.scale = _two_convs(c_in, c_out)
        self.shift = _two_convs(c_in, c_out)
        self.expand = _conv(c_out, c_out)
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def forward(self, x: Tensor, transferred: Tensor) -> Tensor:
        channels = x.shape[1]
        smooth = F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 3, 3), padding=1, groups=channels)
        # the published network activates twice here, a slope of 0.04
        x = leaky(leaky(self.conv(smooth)))
        x = x * self.scale(transferred) + self.shift(transferred).sigmoid()
        return leaky(self.expand(upsample_bilinear(x)))


class Residual(nn.Sequential):
    """Adds the input to what its layers make of it."""

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for layer in self:
            change = layer(change)
        return x + change


class DFDNet(System):
    """Face restoration by multi-scale component dictionaries (arXiv 2008.00418, section 3).

    forward: image (N, 3, S, S) RGB in [−1, 1] on the `ffhq` template to the restored image of the same shape in
    (−1, 1). `boxes` (N, 4, 4), x0, y0, x1, y1 in pixels in the order of `PARTS` (see `component_boxes`), tell where
    the components are; by default where they are in an upright frontal face. A component outside the picture is
    skipped. With `return_atoms` also the chosen atoms (16, N), scale by scale, −1 where skipped. Raises UsageError for
    other shapes, WeightsError without dictionaries.

    The dictionaries, `dictionary.<part>_<scale>` (K, C, h, h), are float16: 799 million numbers at the published size.
    They are worth something only in the features they were made in, so the configuration notes the `fingerprint` of
    these when they are loaded.
    `precision`: arithmetic of `restore`; `auto` takes bfloat16 where the processor has it.
    """

    slug: ClassVar[str] = "dfdnet"
    Config: ClassVar[type[DFDNetConfig]] = DFDNetConfig
    mapped = True
    config: DFDNetConfig

    def __init__(self, config: DFDNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        _check(c)
        self.extractor = EXTRACTORS[c.features]().requires_grad_(False)
        widths = self.extractor.widths
        shapes = c.dictionary_shapes()
        self.confidence = nn.ModuleDict({name: _two_convs(shape[1], shape[1]) for name, shape in shapes.items()})
        self.dilated = DilatedBlock(widths[-1])
        ups = [*reversed(widths), c.width]
        self.ups = nn.ModuleList(StyledUpBlock(a, b) for a, b in zip(ups, ups[1:]))
        self.head = nn.Sequential(
            _conv(c.width, c.width),
            nn.LeakyReLU(0.2),
            *(Residual(_plain(c.width, c.width), nn.LeakyReLU(0.2), _plain(c.width, c.width)) for _ in range(2)),
            _plain(c.width, 3),
        )
        self.dictionary = nn.Module()
        for name, shape in shapes.items():
            self.dictionary.register_buffer(name, torch.zeros(shape, dtype=torch.float16))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train(self.training)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        commercial: bool = False,
        local_files_only: bool = False,
        dictionaries: bool = True,
    ) -> Self:
        """As for any system; without `dictionaries` those of the file are left out, to be replaced by others.

        Raises WeightsError when the dictionaries were made in other features than the file holds. A file that does not
        say what they were made in is taken as it is.
        """
        model = super().from_pretrained(source, commercial=commercial, local_files_only=local_files_only)
        noted = model.config.dictionary_features
        if not dictionaries:
            shapes = model.config.dictionary_shapes()
            model.load_dictionaries({name: torch.zeros(0, *shape[1:]) for name, shape in shapes.items()})
        elif noted:
            present = fingerprint(model.extractor)
            if not same_features(noted, present):
                raise WeightsError(
                    f"the dictionaries in {source} were built with other features ({noted}) than it holds ({present}); "
                    f"make new ones with 'facewright dictionary build PHOTOS --model {source}'"
                )
            model.config = replace(model.config, dictionary_features=present)
        return model

    def train(self, mode: bool = True) -> Self:
        """As for any module, but the frozen feature network stays in evaluation mode."""
        super().train(mode)
        self.extractor.eval()
        return self

    def forward(
        self, image: Tensor, boxes: NDArray[np.int64] | None = None, *, return_atoms: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        where = self._checked(image, boxes)
        maps = self.extractor(image)
        transferred, chosen = [], []
        for level in range(len(maps)):
            updated, atoms = self._transfer(maps[level], level, where)
            transferred.append(updated)
            chosen += atoms
        x = self.dilated(maps[-1])
        for up, features in zip(self.ups, reversed(transferred)):
            x = up(x, features)
        restored: Tensor = self.head(x).tanh()
        return (restored, torch.stack(chosen)) if return_atoms else restored

    def _checked(self, image: Tensor, boxes: NDArray[np.int64] | None) -> NDArray[np.int64]:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this DFDNet takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        if self.config.atoms == 0:
            raise WeightsError(
                "this DFDNet has no dictionaries yet; add the published ones or build some with 'facewright dictionary'"
            )
        if boxes is None:
            return np.repeat(upright_boxes(side)[None], len(image), 0)
        if boxes.shape != (len(image), len(PARTS), 4):
            raise UsageError(f"boxes of components must be ({len(image)}, {len(PARTS)}, 4), not {boxes.shape}")
        return boxes

    def _transfer(self, features: Tensor, level: int, boxes: NDArray[np.int64]) -> tuple[Tensor, list[Tensor]]:
        """Feature maps with the components replaced, and the atoms chosen for every part, (N,) each."""
        updated, chosen = features.clone(), []
        reduction = REDUCTIONS[level]
        for part, kind in enumerate(PARTS):
            name = f"{kind}_{self.config.size // reduction}"
            atoms = self.dictionary.get_buffer(name)
            picked = torch.full((len(features),), -1, device=features.device)
            chosen.append(picked)
            regions = _regions(boxes, part, reduction, features.shape)
            shown = [n for n, region in enumerate(regions) if not _is_empty(region)]
            if not shown:
                continue
            crops = [features[n : n + 1, :, *regions[n]] for n in shown]
            query = torch.cat([_resized(crop, atoms.shape[-1]) for crop in crops])
            picked[shown] = self._choose(query, atoms)
            swaps = recolour(atoms[picked[shown]].to(query.dtype), query)
            for n, crop, swap in zip(shown, crops, swaps):
                fitted = F.interpolate(swap[None], crop.shape[-2:], mode="nearest")
                confidence = self.confidence[name](fitted - crop)
                updated[n : n + 1, :, *regions[n]] = (crop + confidence * fitted).to(updated.dtype)
        return updated, chosen

    def _choose(self, query: Tensor, atoms: Tensor) -> Tensor:
        """Which atom (K, C, h, h) stands in for each of the queries (N, C, h, h)."""
        return best_atoms(query, atoms)

    # Use on pictures

    def restore(
        self,
        crops: NDArray[np.uint8],
        *,
        fidelity: float = 1.0,
        seed: int | None = None,
        landmarks: NDArray[np.floating] | None = None,
    ) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        `landmarks` (N, 68, 2) in crop pixels place the components; without them the template does. The network has no
        control of fidelity and draws no noise: a value other than 1, or a seed, is a UsageError.
        """
        if fidelity != 1:
            raise UsageError("dfdnet has no fidelity control; blend with the input instead (strength)")
        refuse_seed(self.slug, seed)
        boxes = None if landmarks is None else component_boxes(landmarks, self.config.size)
        return restored_in_runs(self, crops, {} if boxes is None else {"boxes": boxes})

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        twin = sharing_copy(self)
        for name, part in list(twin.named_modules()):
            if parametrize.is_parametrized(part, "weight"):
                twin.set_submodule(name, _without_norm(part))
        return AutocastCopy(twin, dtype, (nn.Conv2d,), self._been_read)

    # Dictionaries

    def load_dictionaries(self, dictionaries: Mapping[str, Tensor]) -> None:
        """Take dictionaries (K, C, h, h) under the names of `DFDNetConfig.dictionary_shapes`; K is free but common.

        An entry `FINGERPRINT` tells the features they were made in; without one, as for the published dictionaries,
        they count as made in this network's. Raises WeightsError when they were made in other features, and when one is
        missing or of another shape.
        """
        given = {name: values for name, values in dictionaries.items() if name != FINGERPRINT}
        atoms = len(next(iter(given.values()), ()))
        config = replace(self.config, atoms=atoms)
        for name, shape in config.dictionary_shapes().items():
            if name not in given:
                raise WeightsError(f"the dictionary {name} is missing; there are: {', '.join(given) or 'none'}")
            if tuple(given[name].shape) != shape:
                raise WeightsError(f"the dictionary {name} is {tuple(given[name].shape)} instead of {shape}")
        present = fingerprint(self.extractor) if atoms else ""
        made_in = _as_text(dictionaries[FINGERPRINT]) if FINGERPRINT in dictionaries else present
        if not same_features(made_in, present):
            raise WeightsError(
                f"the dictionaries were built with other features ({made_in}) than those of this network ({present}); "
                "load them into the network they were made with, or build new ones with this one (build_dictionaries)"
            )
        for name in config.dictionary_shapes():
            values = given[name].to(device=self.device, dtype=self.dictionary.get_buffer(name).dtype)
            self.dictionary.register_buffer(name, values)
        self.config = replace(config, dictionary_features=present)

    @torch.inference_mode()
    def component_features(self, crops: NDArray[np.uint8], boxes: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Features of the components of (N, S, S, 3) uint8 RGB crops, (M, C, h, h) by dictionary name.

        M is smaller than N where a component lies outside the crop. `boxes` as in `forward`.
        """
        side = self.config.size
        where = np.repeat(upright_boxes(side)[None], len(crops), 0) if boxes is None else boxes
        found = {}
        for reduction, features in zip(REDUCTIONS, self.extractor(self.normalise(crops))):
            for part, kind in enumerate(PARTS):
                name = f"{kind}_{side // reduction}"
                regions = enumerate(_regions(where, part, reduction, features.shape))
                shown = [features[n : n + 1, :, *region] for n, region in regions if not _is_empty(region)]
                target = self.config.dictionary_shapes()[name]
                pieces = [_resized(crop, target[-1]) for crop in shown]
                found[name] = torch.cat(pieces) if pieces else features.new_zeros((0, *target[1:]))
        return found


def _without_norm(layer: nn.Module) -> nn.Conv2d:
    """The convolution that one with spectral norm is in use."""
    assert isinstance(layer, nn.Conv2d)
    with torch.device("meta"):
        plain = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            1,
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
        )
    parametrised: Any = layer.parametrizations
    (norm,), stored = parametrised.weight, parametrised.weight.original
    aligned = stored.detach().clone(memory_format=torch.contiguous_format)  # so that sums round alike, loaded or made
    with torch.no_grad():
        plain.weight = nn.Parameter(norm(aligned), requires_grad=False)
    plain.bias = layer.bias
    return plain


def _plain(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, 1, 1)


def _check(c: DFDNetConfig) -> None:
    if c.features not in EXTRACTORS:
        raise UsageError(f"features {c.features!r}: choose one of {', '.join(EXTRACTORS)}")
    if c.size % REDUCTIONS[-1] or len(c.part_sizes) != len(PARTS):
        raise UsageError(f"DFDNet needs a size divisible by {REDUCTIONS[-1]} and {len(PARTS)} part sizes")


# Building dictionaries (section 3.1)


def build_dictionaries(
    model: DFDNet,
    faces: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64] | None]],
    atoms: int = 512,
    *,
    iterations: int = 25,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Dictionaries of `atoms` entries each from good photos, and their `FINGERPRINT`: ready for `load_dictionaries`.

    faces: (crops (N, S, S, 3) uint8 RGB on the `ffhq` template, boxes (N, 4, 4) or None), batch by batch. They should
    be sharp and balanced in pose and expression; the paper takes ten thousand of FFHQ. All features are kept in memory
    as float16: 3.1 MB a face at the published size. Raises UsageError when there are fewer faces than atoms.
    """
    collected: dict[str, list[Tensor]] = {name: [] for name in model.config.dictionary_shapes()}
    for crops, boxes in faces:
        for name, features in model.component_features(crops, boxes).items():
            collected[name].append(features.half().cpu())
    dictionaries = {}
    for name, (_, *shape) in model.config.dictionary_shapes().items():
        points = torch.cat([part.flatten(1) for part in collected.pop(name)] or [torch.zeros(0, 1)])
        centres = kmeans(points.to(model.device), atoms, iterations=iterations, seed=seed)
        dictionaries[name] = centres.view(atoms, *shape).half().cpu()
    return dictionaries | {FINGERPRINT: _as_bytes(fingerprint(model.extractor))}


def _as_bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8).view(2, -1)


def _as_text(values: Tensor) -> str:
    return bytes(values.to(torch.uint8).flatten().tolist()).hex()


def kmeans(points: Tensor, count: int, *, iterations: int = 25, seed: int = 0) -> Tensor:
    """Centres (count, D) in float32 of (N, D) points: k-means++ seeding, then Lloyd's steps until nothing moves.

    A cluster that has lost all its points starts again at the point farthest from its centre. Raises UsageError when
    there are fewer points than centres.
    """
    if not 0 < count <= len(points):
        raise UsageError(f"{count} clusters need at least as many samples, there are {len(points)}")
    centres = _spread_seeds(points, count, torch.Generator().manual_seed(seed))
    previous: Tensor | None = None
    for _ in range(iterations):
        distance, nearest = _nearest(points, centres)
        if previous is not None and torch.equal(nearest, previous):
            break
        previous = nearest
        centres = _means(points, nearest, centres)
        empty = (torch.bincount(nearest, minlength=count) == 0).nonzero().flatten()
        centres[empty] = points[distance.topk(len(empty)).indices].float()
    return centres


def _spread_seeds(points: Tensor, count: int, random: torch.Generator) -> Tensor:
    """k-means++ (Arthur, Vassilvitskii 2007): each further seed is drawn by its squared distance from the others."""
    first = int(torch.randint(len(points), (1,), generator=random))
    chosen = [first]
    distance, _ = _nearest(points, points[[first]].float())
    while len(chosen) < count:
        weights = distance.cpu().double().clamp(min=0)
        weights[chosen] = 0
        if weights.sum() == 0:
            weights = torch.ones_like(weights)
            weights[chosen] = 0
        chosen.append(int(torch.multinomial(weights, 1, generator=random)))
        distance = torch.minimum(distance, _nearest(points, points[[chosen[-1]]].float())[0])
    return points[chosen].float()


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest centre, and which it is, (N,) each."""
    energy = centres.square().sum(1)
    found = []
    for some in torch.split(points, _POINTS_AT_ONCE):
        x = some.float()
        squared = x.square().sum(1, keepdim=True) - 2 * x @ centres.t() + energy
        found.append(squared.min(1))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _means(points: Tensor, nearest: Tensor, centres: Tensor) -> Tensor:
    sums = torch.zeros_like(centres)
    for some, index in zip(torch.split(points, _POINTS_AT_ONCE), torch.split(nearest, _POINTS_AT_ONCE)):
        sums.index_add_(0, index, some.float())
    counts = torch.bincount(nearest, minlength=len(centres))[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), centres)


# Published checkpoints


def batched(faces: Iterable[NDArray[np.uint8]], size: int = 16) -> Iterator[tuple[NDArray[np.uint8], None]]:
    """Single crops (S, S, 3) as the batches `build_dictionaries` takes, without boxes."""
    held: list[NDArray[np.uint8]] = []
    for face in faces:
        held.append(face)
        if len(held) == size:
            yield np.stack(held), None
            held = []
    if held:
        yield np.stack(held), None
