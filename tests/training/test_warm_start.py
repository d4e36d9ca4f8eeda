"""Trainings that begin with a part of another network, and leave some of it as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facewright.errors import UsageError, WeightsError
from facewright.nn.mobilenetv3 import COMPACT, MobileNetV3
from facewright.systems.parse.segface.network import SegFace, SegFaceConfig
from facewright.systems.parse.segface.training import SegFaceTraining
from facewright.training.warm_start import copy_backbone, frozen_part


def test_a_shallower_backbone_is_filled_from_the_embedded_parser() -> None:
    target = nn.ModuleList([MobileNetV3(COMPACT[:10], last=0, taps=(10,)) for _ in range(2)])
    copy_backbone(target, "segface")
    source = SegFace.from_pretrained().net.backbone.state_dict()
    for backbone in target:
        assert all(torch.equal(value, source[key]) for key, value in backbone.state_dict().items())
    deeper = MobileNetV3(COMPACT, last=0, taps=(10,))
    with pytest.raises(WeightsError, match="does not fit"):
        copy_backbone(nn.ModuleList([deeper]), "lnet_anet")
    with pytest.raises(WeightsError, match="does not fit"):
        copy_backbone(nn.ModuleList([MobileNetV3(stem=8)]), "segface")
    with pytest.raises(WeightsError, match="no backbone"):
        copy_backbone(nn.Linear(2, 2), "segface")


def test_frozen_modules_keep_weights_and_norms() -> None:
    torch.manual_seed(0)
    model = SegFace(SegFaceConfig.compact()).train()
    training = SegFaceTraining(model, lr=1e-2, frozen=2, every=2)
    before = {key: value.clone() for key, value in model.net.backbone.state_dict().items()}
    batch = {
        "image": torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8),
        "labels": torch.randint(0, 19, (2, 64, 64), dtype=torch.uint8),
    }
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    training.step(batch, update, 0.0)
    changed = {key for key, value in model.net.backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert not [key for key in changed if key.startswith(("features.0.", "features.1."))]
    assert "features.2.block.0.0.weight" in changed
    with pytest.raises(UsageError, match="no 99 modules"):
        frozen_part(model.net.backbone, 99)
    assert len(frozen_part(nn.Linear(2, 2), 0)) == 0


def test_the_loss_looks_at_every_other_row_and_column_from_any_first_one() -> None:
    training = SegFaceTraining(SegFace(SegFaceConfig.compact()), every=2)
    labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) % 19
    logits = torch.zeros(1, 19, 8, 8)
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        thinned, batch = training._thinned(logits, {"labels": labels})
        assert thinned.shape == (1, 19, 4, 4)
        seen.add(int(batch["labels"][0, 0, 0]))
    assert seen == {0, 1, 8, 9}
