"""LNet + ANet: where a face is, learned from nothing but statements about it, and forty statements about the face.

Paper: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild" (ICCV 2015, arXiv 1411.7766), which introduced
CelebA and LFWA.

LNet_o looks at a whole photo and LNet_s at the head it finds; both learn image-level tags alone, and the mean of their
last maps turns out to show faces. ANet looks at overlapping patches of the face, with filters of their own for the
cells of a grid in its last two convolutions, and linear support vector machines tell the attributes from its features.
Channels and kernels of ANet stand only in a figure of the paper; those here are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import Face, FaceAttributes
from ....geometry.crop import CropSpec
from ....nn.inference import plain_copy
from ....nn.mobilenetv3 import COMPACT, MobileNetV3
from ....tasks.card import Preprocess
from ...base import System, batches
from .localise import Window, best_window, density_peaks, scaled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)
"""CelebA's, in its order. "No_Beard" is true where there is no beard."""

CELLS = 3
"""Rows and columns of the grid whose cells have filters of their own."""
_MILLIONTHS = 1_000_000
_BATCH = 16


@dataclass(frozen=True)
class LNetANetConfig:
    """Shape of the networks; the defaults are full size.

    scene: side to which LNets' pictures are brought. lnet: channels of LNet's five convolutions. second_pool: whether
        LNet pools after its second one.
    size: side of ANet's crop. patches: how many overlapping patches of it are looked at and averaged, one patch being
        the crop itself. patch: side of a patch.
    trunk: ANet's ordinary convolutions, `plain` two of `anet`'s first channels as in the paper, or `compact`, this
        project's. local: channels of the two convolutions with cells. features: of a patch.
    attributes: names of the statements. identities: people of ANet's pre-training, 0 once that is over.
    """

    scene: int = 227
    lnet: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    second_pool: bool = True
    size: int = 118
    patch: int = 103
    patches: int = 5
    trunk: Literal["plain", "compact"] = "plain"
    anet: tuple[int, int] = (32, 48)
    local: tuple[int, int] = (64, 64)
    features: int = 512
    attributes: tuple[str, ...] = ATTRIBUTES
    identities: int = 0

    @classmethod
    def compact(cls) -> Self:
        """Scenes of 160 px, and the whole crop of 144 px at once."""
        return cls(
            scene=160, lnet=(16, 24, 32, 32, 48), second_pool=False, size=144, patch=144, patches=1, trunk="compact",
            anet=(16, 96), local=(64, 48), features=160,
        )  # fmt: skip


# --- LNet -------------------------------------------------------------------------------------------------------


class LNet(nn.Module):
    """AlexNet's five convolutions (Krizhevsky et al., 2012, without its two halves) and tags from their mean.

    (N, 3, H, W) to the response map (N, h, w), the mean over the channels of the last map after ReLU, and the logits of
    tags (N, T). Pictures may have any size.
    """

    def __init__(self, channels: tuple[int, ...], tags: int, *, second_pool: bool = True) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.conv1 = nn.Conv2d(3, c1, 11, 4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
        self.tags = nn.Linear(c5, tags)
        self.second_pool = second_pool
        for module in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def maps(self, x: Tensor) -> Tensor:
        """(N, C, h, w) the last map after ReLU."""
        x = self.norm(F.max_pool2d(F.relu(self.conv1(x)), 3, 2))
        x = F.relu(self.conv2(x))
        x = self.norm(F.max_pool2d(x, 3, 2) if self.second_pool else x)
        return F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(x)
        return maps.mean(1), self.tags(maps.mean((2, 3)))

    def tag_map(self, x: Tensor, tag: int) -> Tensor:
        """(N, h, w) where a picture speaks for one tag: its layer taken for a 1×1 convolution (section 4.2)."""
        return torch.einsum("nchw,c->nhw", self.maps(x), self.tags.weight[tag])


# --- ANet -------------------------------------------------------------------------------------------------------


class LocalConv2d(nn.Module):
    """A 3×3 convolution whose filters are shared within the cells of a grid only.

    (N, C, H, W) to (N, C', H − 2, W − 2), which is cut into `cells` × `cells` equal cells; a cell's filters see one
    pixel beyond it on every side. Raises UsageError where the map cannot be cut.
    """

    def __init__(self, c_in: int, c_out: int, cells: int = CELLS) -> None:
        super().__init__()
        self.cells = cells
        self.convs = nn.ModuleList(nn.Conv2d(c_in, c_out, 3) for _ in range(cells**2))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        side = self.cell_side(x)
        rows = []
        for row in range(self.cells):
            strip = x[:, :, row * side : (row + 1) * side + 2]
            convs = self.convs[row * self.cells : (row + 1) * self.cells]
            rows.append(torch.cat([c(strip[..., i * side : (i + 1) * side + 2]) for i, c in enumerate(convs)], 3))
        return torch.cat(rows, 2)

    def cell_side(self, x: Tensor) -> int:
        height, width = x.shape[2] - 2, x.shape[3] - 2
        if height != width or height % self.cells:
            raise UsageError(f"a map of {x.shape[2]} x {x.shape[3]} leaves no {self.cells} x {self.cells} equal cells")
        return int(height // self.cells)


class GroupedConv2d(nn.Module):
    """Four 3×3 convolutions, each over two by two neighbouring cells of a grid of three by three.

    (N, C, 3s, 3s) to (N, 4, C', 2s − 2, 2s − 2).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c_in, c_out, 3) for _ in range((CELLS - 1) ** 2))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[2] // CELLS
        return torch.stack([conv(part) for conv, part in zip(self.convs, self._groups(x, side))], 1)

    @staticmethod
    def _groups(x: Tensor, side: int) -> Iterator[Tensor]:
        for row in range(CELLS - 1):
            for column in range(CELLS - 1):
                yield x[:, :, row * side : (row + 2) * side, column * side : (column + 2) * side]


class PlainTrunk(nn.Module):
    """Two ordinary convolutions with pooling, at a quarter of the patch."""

    stride = 4

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return F.max_pool2d(F.relu(self.conv2(x)), 2)


class CompactTrunk(nn.Module):
    """This project's: the shallow part of a small MobileNetV3, at a sixteenth of the patch, padded by a pixel."""

    stride = 16

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = MobileNetV3(COMPACT[:10], last=0, taps=(10,))

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.backbone(x)[-1], (1, 1, 1, 1))


class ANet(nn.Module):
    """Patches (N, 3, P, P) to features (N, D)."""

    def __init__(self, config: LNetANetConfig) -> None:
        super().__init__()
        self.trunk = PlainTrunk(config.anet) if config.trunk == "plain" else CompactTrunk(config.anet)
        self.local = LocalConv2d(config.anet[1], config.local[0])
        self.grouped = GroupedConv2d(*config.local)
        with torch.device("meta"):  # the size of the last map, whatever the trunk does to a patch
            probe = CompactTrunk(config.anet) if config.trunk == "compact" else PlainTrunk(config.anet)
            side = (probe(torch.zeros(1, 3, config.patch, config.patch)).shape[2] - 2) // CELLS
        pooled = (2 * side - 2) // 2
        self.fc = nn.Linear((CELLS - 1) ** 2 * config.local[1] * pooled**2, config.features)

    def forward(self, patches: Tensor) -> Tensor:
        return self.after_local(F.relu(self.local(self.trunk(patches))))

    def after_local(self, maps: Tensor) -> Tensor:
        """From the maps of the first local convolution after ReLU on."""
        maps = F.relu(self.grouped(maps)).flatten(0, 1)
        pooled = F.max_pool2d(maps, 2)
        features: Tensor = F.relu(self.fc(pooled.reshape(len(pooled) // (CELLS - 1) ** 2, -1)))
        return features

    def interweaved(self, image: Tensor, places: Sequence[tuple[int, int]], patch: int) -> Tensor:
        """Features (P, N, D) of the patches of a larger picture (N, 3, H, W) at (row, column) `places`.

        What patches share is computed once: the ordinary convolutions on the whole picture, and every cell's filters on
        the whole of their map, out of which each patch takes its cells (section 3.2). Only for trunks without padding,
        and places that are multiples of their stride; then equal to `forward` on each patch, else UsageError is raised.
        """
        stride = self.trunk.stride
        if not isinstance(self.trunk, PlainTrunk) or any(v % stride for place in places for v in place):
            raise UsageError(f"patches share their maps only at multiples of {stride} px and without padding")
        shared = self.trunk(image)
        inner = self.trunk(image[:, :, :patch, :patch])
        side = self.local.cell_side(inner)
        maps = [F.relu(conv(shared)) for conv in self.local.convs]
        found = []
        for top, left in places:
            rows = []
            for row in range(CELLS):
                y, x = top // stride + row * side, left // stride
                parts = [
                    maps[row * CELLS + column][:, :, y : y + side, x + column * side : x + (column + 1) * side]
                    for column in range(CELLS)
                ]
                rows.append(torch.cat(parts, 3))
            found.append(self.after_local(torch.cat(rows, 2)))
        return torch.stack(found)


# --- the system -------------------------------------------------------------------------------------------------


class LNetANet(System):
    """Forty statements about a face, and faces by statements alone (arXiv 1411.7766).

    forward: crops (N, 3, S, S) RGB in [−1, 1] to scores of the attributes (N, A), above 0 for true; `return_aux` gives
    a dictionary with `scores`, `features` (N, D), the `logits` that ANet was fine-tuned with, those of `identities`
    (or None), and `tags` of both LNets on the same crops.
    `calibration` (A, 2) holds in millionths what `calibrate` set, 0 before; `threshold`, in millionths, is the score
    from which `localise` believes a window. Raises UsageError for other shapes.
    """

    slug: ClassVar[str] = "lnet_anet"
    Config: ClassVar[type[LNetANetConfig]] = LNetANetConfig
    config: LNetANetConfig
    calibration: Tensor
    threshold: Tensor

    def __init__(self, config: LNetANetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.trunk not in ("plain", "compact") or not 0 < c.patch <= c.size or c.patches not in (1, 5):
            raise UsageError(f"LNet + ANet has no trunk {c.trunk!r} with {c.patches} patches of {c.patch} px")
        count = len(c.attributes)
        self.lnet_o = LNet(c.lnet, count, second_pool=c.second_pool)
        self.lnet_s = LNet(c.lnet, count, second_pool=c.second_pool)
        self.anet = ANet(c)
        self.tags = nn.Linear(c.features, count)
        self.identity = nn.Linear(c.features, c.identities) if c.identities else None
        self.svm = nn.Linear(c.features, count)
        self.register_buffer("calibration", torch.zeros(count, 2, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(1, dtype=torch.int32))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    @property
    def places(self) -> list[tuple[int, int]]:
        """Rows and columns of the patches in a crop: the middle, and the corners where there are five."""
        room = self.config.size - self.config.patch
        stride = self.anet.trunk.stride
        corner, middle = room // stride * stride, room // 2 // stride * stride
        corners = [(0, 0), (0, corner), (corner, 0), (corner, corner)]
        return [(middle, middle)] if self.config.patches == 1 else [(middle, middle), *corners]

    def forward(self, image: Tensor, *, return_aux: bool = False) -> Any:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this network takes crops (N, 3, {side}, {side}), not {tuple(image.shape)}")
        patch = self.config.patch
        features = [self.anet(image[:, :, y : y + patch, x : x + patch]) for y, x in self.places]
        scores = torch.stack([self.svm(each) for each in features]).mean(0)
        if not return_aux:
            return scores
        mean = torch.stack(features).mean(0)
        return {
            "scores": scores,
            "features": mean,
            "logits": self.tags(mean),
            "identities": None if self.identity is None else self.identity(mean),
            "tags": [lnet(image)[1] for lnet in (self.lnet_o, self.lnet_s)],
        }

    def describe_faces(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceAttributes]:
        """The attributes of each face of an (H, W, 3) uint8 RGB photo, in the order of the configuration."""
        return [self.read(row) for group in batches(faces, _BATCH) for row in self._scores(photo, group)]

    def read(self, scores: NDArray[np.floating[Any]]) -> FaceAttributes:
        """The scores (A,) of one face as probabilities; of networks never calibrated, as scores between 0 and 1."""
        table = self.calibration.cpu().numpy() / _MILLIONTHS
        known = bool(table.any())
        odds = table[:, 0] * scores + table[:, 1] if known else scores
        chances = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        return FaceAttributes(dict(zip(self.config.attributes, chances.tolist())), known)

    def calibrate(self, table: NDArray[np.floating[Any]]) -> None:
        """Set factor and offset (A, 2) that turn scores into log odds."""
        self.calibration.copy_(torch.from_numpy(np.rint(table * _MILLIONTHS).astype(np.int32)))

    @torch.inference_mode()
    def localise(self, photo: NDArray[np.uint8]) -> list[Face]:
        """The faces LNets find in an (H, W, 3) uint8 RGB photo, as squares without landmarks, the clearest first.

        LNet_o finds the head and shoulders in the whole photo, LNet_s the face in them; where a window holds several
        peaks of response, each is a face. Empty where no window reaches the threshold. Raises UsageError for weights
        whose LNets were never trained, which have no threshold.
        """
        if not int(self.threshold):
            raise UsageError("these weights hold no trained LNets, so they find no faces; use a detector")
        whole = Window(0, 0, photo.shape[1], photo.shape[0], 0.0)
        head, _ = self._window(self.lnet_o, photo, whole)
        if head.score < float(self.threshold) / _MILLIONTHS:
            return []
        face, response = self._window(self.lnet_s, photo, head)
        x, y = (head.x1 - head.x0) / response.shape[1], (head.y1 - head.y0) / response.shape[0]
        half = np.array([face.x1 - face.x0, face.y1 - face.y0]) / 2
        peaks = density_peaks(response)
        if len(peaks) <= 1:
            return [_square(np.array([face.x0, face.y0]) + half, half, face.score)]
        middles = [np.array([head.x0 + (column + 0.5) * x, head.y0 + (row + 0.5) * y]) for row, column in peaks]
        return [_square(middle, half / len(peaks) ** 0.5, face.score) for middle in middles]

    def _window(self, lnet: nn.Module, photo: NDArray[np.uint8], part: Window) -> tuple[Window, NDArray[np.float32]]:
        """The best window of an LNet in a part of a photo, in pixels of the photo, and the part's response map."""
        side = self.config.scene
        x0, y0, x1, y1 = (round(v) for v in part[:4])
        cut = np.asarray(cv2.resize(photo[y0:y1, x0:x1], (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        response, _ = lnet(self.normalise(cut[None]))
        found = response[0].float().cpu().numpy()
        x, y = (part.x1 - part.x0) / found.shape[1], (part.y1 - part.y0) / found.shape[0]
        return scaled(best_window(found), x, y, part.x0, part.y0), found

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return plain_copy(self, dtype)

    @torch.inference_mode()
    def _scores(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        crop = self.preprocess.crop
        pixels = self.normalise(np.stack([crop.cut(photo, face).image for face in faces]))
        scores: Tensor = self.inference()(pixels.to(self.picture_dtype))
        return scores.double().cpu().numpy()


def _square(middle: NDArray[np.floating[Any]], half: NDArray[np.floating[Any]], score: float) -> Face:
    """A face of which only the box is known: its five points coincide, so that crops follow the box."""
    box = np.concatenate([middle - half, middle + half]).astype(np.float32)
    return Face(box, float(score), np.tile(middle, (5, 1)).astype(np.float32))


def attribute_groups(weights: NDArray[np.floating[Any]], count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """(A,) numbers of groups of attributes whose classifiers (A, D) are alike, by k-means on rows of length 1."""
    rows = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    rng = np.random.default_rng(seed)
    centres = rows[rng.choice(len(rows), count, replace=False)]
    numbers = np.zeros(len(rows), np.int64)
    for _ in range(100):
        new = np.asarray((rows @ centres.T).argmax(1), np.int64)
        if (new == numbers).all() and _:
            break
        numbers = new
        centres = np.stack([rows[numbers == k].mean(0) if (numbers == k).any() else centres[k] for k in range(count)])
    return numbers
