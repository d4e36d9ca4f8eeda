"""The losses of MOS, rebuilt: they were never released. Matching and hard negatives follow RetinaFace, angles follow
Hopenet, mosaics follow Stitcher, task weights follow Kendall et al.; the paper names all four.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....data.detection import BOX, BOX_ONLY, FACE, IGNORED, LABEL, POINTS, POSE, tally
from ....nn.boxes import area, encode_boxes, encode_points, intersection, iou, make_anchors, to_corners
from ....training.trainer import Batch, Training, Update
from .network import ANCHOR_SIZES, BIN_DEGREES, LOWEST_ANGLE, MOS, STRIDES, MOSConfig, Predictions, expected_angle
from .refiner import ANGLE_UNIT, PointRefiner, Refinement, crop_input

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ....face import Face

SPARED_AREA = 8.0  # an anchor up to this much larger than an ignored face it contains is left alone


class Targets(NamedTuple):
    """What every anchor of a batch should say.

    `positive` and `negative` (N, A) bool (ignored anchors are neither); `face` (N, A) index of the matched label row.
    """

    positive: Tensor
    negative: Tensor
    face: Tensor


def match_anchors(anchors: Tensor, faces: Tensor, *, positive: float = 0.35, forced: float = 0.2) -> Targets:
    """Assign label rows `faces` (N, M, 18) (see `data.detection`) to (A, 4) anchors, as RetinaFace does.

    An anchor is positive when its best IoU reaches `positive`; every face whose best IoU reaches `forced` keeps that
    anchor. Anchors on ignored faces, or somewhat larger and around one, are no negatives.
    """
    boxes, label = faces[..., BOX], faces[..., LABEL]
    corners = to_corners(anchors)
    overlap = iou(corners, boxes)
    wanted, ignored = (label == FACE) | (label == BOX_ONLY), label == IGNORED
    candidate = overlap.masked_fill(~wanted[:, None], -1)
    best, index = candidate.max(-1)
    best_anchor_iou, best_anchor = candidate.max(1)
    image, face = (best_anchor_iou >= forced).nonzero(as_tuple=True)
    best[image, best_anchor[image, face]] = 2
    index[image, best_anchor[image, face]] = face
    box_area, anchor_area = area(boxes)[:, None], anchors[:, 2:].prod(-1)[:, None]
    swallowed = intersection(corners, boxes) > 0.5 * box_area
    alike = (box_area < anchor_area) & (anchor_area < SPARED_AREA * box_area)
    spared = (((overlap > forced) | (swallowed & alike)) & ignored[:, None]).any(-1)
    is_positive = best >= positive
    return Targets(is_positive, ~is_positive & ~spared, index)


def stitch(images: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """2×2 mosaics of half-size images: mosaic i shows images i, i+1, i+2, i+3 (cyclic). (Stitcher, Chen et al. 2020)

    `images` (N, 3, S, S), `faces` (N, M, 18); labels move along, and faces are half as large.
    """
    side = images.shape[-1] // 2
    small = F.interpolate(images.float(), size=(side, side), mode="area").to(images.dtype)
    canvas = torch.empty_like(images)
    labels = []
    for quarter, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        canvas[..., row * side : (row + 1) * side, column * side : (column + 1) * side] = small.roll(-quarter, 0)
        moved = faces.roll(-quarter, 0).clone()
        for part, count in ((BOX, 2), (POINTS, 5)):
            shift = torch.tensor([column * side, row * side] * count, device=faces.device)
            moved[..., part] = (moved[..., part] + 0.5) / 2 - 0.5 + shift
        labels.append(moved)
    return canvas, torch.cat(labels, dim=1)


def to_input(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 RGB tensors to the network's input."""
    mean = torch.tensor(MOS.preprocess_for(MOSConfig()).mean, device=images.device).view(1, 3, 1, 1)
    return (images.flip(1).float() - mean).contiguous(memory_format=torch.channels_last)


class MOSTraining(Training):
    """Multi-task losses of MOS.

    Class cross entropy with hard negatives (7 : 1), SmoothL1 on boxes and points, cross entropy over angle bins plus
    squared error of the expected angle (Hopenet). `uncertainty` weights the four tasks by learned variances (UML);
    `feedback` makes the next batch 2×2 mosaics when small faces contributed little to the box loss (OFS). `beta` is
    where SmoothL1 turns from squared to linear. Hard negatives are at least `least_negatives` a picture so that empty
    pictures teach as well, which RetinaFace's rule does not provide.
    """

    def __init__(
        self,
        model: MOS,
        *,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        uncertainty: bool = True,
        feedback: bool = True,
        pose: bool = True,
        beta: float = 1.0,
        angle_weight: float = 0.005,
        negatives: int = 7,
        least_negatives: int = 32,
        small: float = 32.0,
        small_share: float = 0.1,
    ) -> None:
        self.model: MOS = model
        self.balance = TaskBalance(uncertainty)
        self.lr, self.weight_decay = lr, weight_decay
        self.feedback, self.pose, self.beta, self.angle_weight = feedback, pose, beta, angle_weight
        self.negatives, self.least_negatives = negatives, least_negatives
        self.small, self.small_share = small, small_share
        self.bin_centre = bool(model.config.bin_centre)
        self.small_faces_lack = False

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "balance": self.balance}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """AdamW for both network and task weights; vectors (norms, biases, cross-stitch) do not decay."""
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1] + list(self.balance.parameters())
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return {"model": torch.optim.AdamW(groups, lr=self.lr)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        images, faces = batch["image"], batch["faces"].float()
        stitched = self.feedback and self.small_faces_lack
        if stitched:
            images, faces = stitch(images, faces)
        predictions = self.model(to_input(images))
        with torch.autocast(images.device.type, enabled=False):
            losses, share = self.losses(predictions, faces, images.shape[-2:])
            total = self.balance(losses)
        update("model", total)
        self.small_faces_lack = share < self.small_share
        scales = {f"weight/{k}": v for k, v in self.balance.weights().items()}
        return {"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}, **scales, "stitched": stitched}

    def losses(self, predictions: Predictions, faces: Tensor, size: torch.Size) -> tuple[dict[str, Tensor], float]:
        """The four task losses, and the share of small faces in the box loss.

        `faces` (N, M, 18) for images of `size` (H, W). Sums over anchors are divided by the number of positives.
        """
        anchors = make_anchors(size[0], size[1], STRIDES, ANCHOR_SIZES, device=faces.device)
        targets = match_anchors(anchors, faces)
        image, index = targets.positive.nonzero(as_tuple=True)
        rows, priors = faces[image, targets.face[image, index]], anchors[index]
        count = max(1, len(image))
        box_error = F.smooth_l1_loss(
            predictions.boxes[image, index].float(),
            encode_boxes(rows[:, BOX], priors),
            reduction="none",
            beta=self.beta,
        ).sum(-1)
        complete = rows[:, LABEL] == FACE
        points = encode_points(rows[:, POINTS].view(-1, 5, 2), priors)
        point_error = F.smooth_l1_loss(
            predictions.points[image, index].float(), points, reduction="none", beta=self.beta
        ).sum((1, 2))
        losses = {
            "class": self._class_loss(predictions.logits.float(), targets) / count,
            "box": box_error.sum() / count,
            "points": point_error[complete].sum() / max(1, int(complete.sum())),
        }
        if self.pose:
            losses["pose"] = self._pose_loss(predictions.angles[image, index].float()[complete], rows[complete, POSE])
        small = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]) < self.small**2
        share = float((box_error[small].sum() / box_error.sum().clamp(min=1e-9)).detach())
        return losses, share

    def _class_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        loss = F.cross_entropy(logits.transpose(1, 2), targets.positive.long(), reduction="none")
        hardest = loss.masked_fill(~targets.negative, 0).sort(dim=1, descending=True).values
        allowed = (self.negatives * targets.positive.sum(1)).clamp(min=self.least_negatives)
        rank = torch.arange(hardest.shape[1], device=hardest.device)
        return loss[targets.positive].sum() + hardest[rank < allowed[:, None]].sum()

    def _pose_loss(self, bins: Tensor, pose: Tensor) -> Tensor:
        """`bins` (K, 3, 66) logits, `pose` (K, 3) in `face.Pose`'s signs; mean over faces, sum over angles."""
        if not len(bins):
            return bins.sum()
        angle = (pose * pose.new_tensor([-1, 1, 1])).clamp(LOWEST_ANGLE, -LOWEST_ANGLE - 0.01)
        wanted = ((angle - LOWEST_ANGLE) / BIN_DEGREES).long()
        entropy = F.cross_entropy(bins.flatten(0, 1), wanted.flatten(), reduction="sum")
        squared = (expected_angle(bins, centre=self.bin_centre) - angle).square().sum()
        return (entropy + self.angle_weight * squared) / len(bins)

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Recall and false alarms at the default threshold, point error (share of the eye distance), pose error."""
        found = self.model.detect_batch(_pictures(batch["image"]), refine=False)
        tallies = [tally(f, rows.cpu().numpy()) for f, rows in zip(found, batch["faces"].float())]
        large = np.concatenate([t.sizes >= 20 for t in tallies])
        hit = np.concatenate([t.found for t in tallies])
        clear = np.concatenate([t.eye_distance >= 24 for t in tallies])
        point_error = np.concatenate([t.point_error for t in tallies])
        return {
            "recall": float(hit[large].mean()) if large.any() else float("nan"),
            "false_alarms": float(np.mean([t.false_alarms for t in tallies])),
            "point_error": float(point_error[clear].mean()) if clear.any() else float("nan"),
            "pose_error": float(np.concatenate([t.pose_error for t in tallies]).mean()) if hit.any() else float("nan"),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """The batch's scenes with what the detector finds."""
        pictures = _pictures(batch["image"])[:12]
        drawn = [draw_faces(p, f) for p, f in zip(pictures, self.model.detect_batch(pictures, refine=False))]
        rows = [np.concatenate(drawn[i : i + 4], axis=1) for i in range(0, len(drawn) - len(drawn) % 4, 4)]
        return np.concatenate(rows or [np.concatenate(drawn, axis=1)])


class TaskBalance(nn.Module):
    """Sum of task losses weighted by learned uncertainty (Kendall et al. 2018), or by RetinaFace's fixed weights.

    With s_k = log σ_k²: exp(−s_k)·L_k for classification, half of it for regression, plus s_k / 2.
    """

    FIXED: ClassVar[dict[str, float]] = {"class": 1.0, "box": 2.0, "points": 1.0, "pose": 1.0}
    REGRESSION = ("box", "points")

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.log_variance = nn.ParameterDict({k: nn.Parameter(torch.zeros(())) for k in self.FIXED} if learned else {})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        if not self.learned:
            return torch.stack([self.FIXED[k] * loss for k, loss in losses.items()]).sum()
        terms = []
        for key, loss in losses.items():
            s = self.log_variance[key]
            terms.append((0.5 if key in self.REGRESSION else 1.0) * (-s).exp() * loss + s / 2)
        return torch.stack(terms).sum()

    def weights(self) -> dict[str, float]:
        """exp(−s_k) of every task; empty with fixed weights."""
        return {k: float((-s.detach()).exp()) for k, s in self.log_variance.items()}


def _pictures(images: Tensor) -> list[NDArray[np.uint8]]:
    return list(images.permute(0, 2, 3, 1).cpu().numpy())


def draw_faces(image: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.uint8]:
    """A copy of an RGB picture with boxes, points and scores drawn in."""
    out = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(out.shape) / 600))
    for face in faces:
        x0, y0, x1, y1 = (round(float(v)) for v in face.box)
        cv2.rectangle(out, (x0, y0), (x1, y1), (40, 220, 40), thickness)
        for x, y in face.points5:
            cv2.circle(out, (round(float(x)), round(float(y))), thickness, (255, 230, 0), -1)
        cv2.putText(out, f"{face.score:.2f}", (x0, y0 - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.35 * thickness, (255, 255, 0))
    return out


class RefinerTraining(Training):
    """Trains the refiner of a detector alone: SmoothL1 on points and angles of faces, cross entropy on face or not."""

    def __init__(self, model: MOS, *, lr: float = 2e-3, weight_decay: float = 0.01, beta: float = 0.03) -> None:
        self.model = model
        self.network.requires_grad_(True)
        self.lr, self.weight_decay, self.beta = lr, weight_decay, beta

    @property
    def network(self) -> PointRefiner:
        network = self.model.refiner
        assert isinstance(network, PointRefiner)
        return network

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        parameters = self.network.parameters()
        return {"model": torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        losses = self.losses(self.network(crop_input(batch["image"])), batch)
        total = torch.stack(list(losses.values())).sum()
        update("model", total)
        return {"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}}

    def losses(self, found: Refinement, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`batch` as from `data.detection.Crops`: points and angles count for faces only."""
        face = batch["face"].float()
        count = face.sum().clamp(min=1)
        point_error = F.smooth_l1_loss(found.points, batch["points"], reduction="none", beta=self.beta).mean((1, 2))
        angle_error = F.smooth_l1_loss(found.angles, batch["angles"], reduction="none", beta=0.1).mean(1)
        return {
            "points": 10 * (point_error * face).sum() / count,
            "pose": (angle_error * face).sum() / count,
            "class": 0.5 * F.binary_cross_entropy_with_logits(found.logits, face),
        }

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Point error (share of the eye distance), pose error (degrees), accuracy of face or not."""
        found = self.network(crop_input(batch["image"]))
        face = batch["face"].bool()
        points = batch["points"][face]
        eye_distance = (points[:, 1] - points[:, 0] + points.new_tensor([1.0, 0.0])).norm(dim=1)
        error = (found.points[face] - points).norm(dim=-1).mean(1) / eye_distance
        return {
            "point_error": float(error.mean()),
            "pose_error": float((found.angles - batch["angles"])[face].abs().mean()) * ANGLE_UNIT,
            "accuracy": float(((found.logits > 0) == face).float().mean()),
        }
