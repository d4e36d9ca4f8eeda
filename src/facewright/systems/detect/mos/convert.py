"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

from .network import MOS, STRIDES, MOSConfig

KEYS = (
    r"body\.",
    r"fpn\.merge",
    r"cross_stitch\.",
    r"ClassHead\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_SSH_NAMES = {
    "conv3X3": "conv3",
    "conv5X5_1": "trunk5",
    "conv5X5_2": "conv5",
    "conv7X7_2": "trunk7",
    "conv7x7_3": "conv7",
}


_RENAMED: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"body\.feature_2\.(.+)", lambda m: f"backbone.stages.0.{m[1]}"),
    (r"body\.feature_4\.(.+)", lambda m: f"backbone.stages.1.{m[1]}"),
    (r"body\.feature_6\.(.+)", lambda m: f"backbone.stages.2.{m[1]}"),
    (r"body\.conv1\.(.+)", lambda m: f"backbone.stages.0.0.{m[1]}"),
    (r"body\.stage2\.(\d+)\.(.+)", lambda m: f"backbone.stages.0.{int(m[1]) + 1}.{m[2]}"),
    (r"body\.stage3\.(.+)", lambda m: f"backbone.stages.1.{m[1]}"),
    (r"body\.stage4\.(.+)", lambda m: f"backbone.stages.2.{m[1]}"),
    (r"fpn\.output(\d)\.(.+)", lambda m: f"pyramid.lateral.{int(m[1]) - 1}.{m[2]}"),
    (r"fpn\.merge(\d)\.(.+)", lambda m: f"pyramid.merge.{int(m[1]) - 1}.{_deformable(m[2])}"),
    (r"ssh(\d)\.(\w+)\.(.+)", lambda m: f"context.{int(m[1]) - 1}.{_SSH_NAMES[m[2]]}.{_deformable(m[3])}"),
)


# The published forward pass stores the box branch under the class name and the reverse, before the cross-stitch.
_STITCHES = ("BboxHead", "classhead", "LandmarkHead", "PoseHead_y", "PoseHead_p", "PoseHead_r")


_CROSS_NAMES = ("classhead", "bboxhead", "landmarkhead", "pose_y", "pose_p", "pose_r")


_HEADS = {"class": "ClassHead", "box": "BboxHead", "points": "LandmarkHead"}


_POSE_HEADS = ("PoseHead_y", "PoseHead_p", "PoseHead_r")


def _deformable(name: str) -> str:
    return name.replace("conv_offset_mask", "offset_mask").replace("actf.0.", "1.").replace("conv.", "0.", 1)


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The published MOS-M or MOS-S state dict as ours (for `MOSConfig()` and `MOSConfig.mos_s()`).

    Accepts the bare dictionary or one wrapped in "state_dict", with or without "module." prefixes. The unused top-level
    `Conv_pose` is dropped.
    """
    published: Mapping[str, Tensor] = state.get("state_dict", state)
    published = {k.removeprefix("module."): v for k, v in published.items()}
    converted = {}
    for key, value in published.items():
        for pattern, rename in _RENAMED:
            if match := re.fullmatch(pattern, key):
                converted[rename(match)] = value
    for level in range(len(STRIDES)):
        converted |= {f"branches.{level}.{k}": v for k, v in _convert_branches(published, level).items()}
    counters = [k.replace("running_mean", "num_batches_tracked") for k in converted if k.endswith("running_mean")]
    return {k: torch.zeros((), dtype=torch.long) for k in counters} | converted


def import_published(state: Mapping[str, Any]) -> MOS:
    """A network holding a published MOS-M or MOS-S checkpoint; which of the two is told by its keys."""
    converted = convert_published(state)
    small = any(".stage2." in key for key in state.get("state_dict", state))
    model = MOS(MOSConfig.mos_s() if small else MOSConfig())
    model.load_state_dict(converted)
    return model.eval()


def _convert_branches(published: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
    stitches = [f"stitch_{name}.{level}.conv1x1" for name in _STITCHES]
    unit = f"cross_stitch.fpn{level + 1}.cross_stitch_unit"
    converted = {
        "stitch_weight": torch.stack([published[f"{s}.weight"][:, :, 0, 0] for s in stitches]),
        "stitch_bias": torch.stack([published[f"{s}.bias"] for s in stitches]),
        "cross": torch.stack(
            [torch.stack([published[f"{unit}.{t}.{s}.param"] for s in _CROSS_NAMES]) for t in _CROSS_NAMES]
        ),
    }
    for ours, theirs in _HEADS.items():
        converted[f"heads.{ours}.weight"] = published[f"{theirs}.{level}.conv1x1.weight"][:, :, 0, 0]
        converted[f"heads.{ours}.bias"] = published[f"{theirs}.{level}.conv1x1.bias"]
    for ours, theirs in {"pose.0": "Conv_pose.0", "pose.1": "Conv_pose.1", "pose.3": "conv1x1"}.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            keys = [f"{head}.{level}.{theirs}.{part}" for head in _POSE_HEADS]
            if keys[0] in published:
                converted[f"{ours}.{part}"] = torch.cat([published[k] for k in keys])
    return converted
