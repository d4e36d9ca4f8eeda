"""The recogniser's first stages: as they are in the recogniser, and a face seen once for all who ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from facewright.pipelines.traits import TraitReader
from facewright.systems.action_units.mlcr.network import MLCR, MLCRConfig
from facewright.systems.age.fpage.network import FPAge, FPAgeConfig
from facewright.systems.recognise.distilledface import stages as shared
from facewright.systems.recognise.distilledface.network import DistilledFace
from facewright.systems.recognise.distilledface.stages import (
    FirstStages,
    SeenOnce,
    begin_as_recogniser,
    fourth_stage,
    seeing_once,
)

if TYPE_CHECKING:
    from types import SimpleNamespace

    import pytest
    from torch import Tensor


@torch.inference_mode()
def test_stages_and_blocks_begin_as_the_recogniser() -> None:
    recogniser = DistilledFace.from_pretrained()
    stages, block = FirstStages().eval(), fourth_stage().eval()
    begin_as_recogniser(stages, [block])
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    image = recogniser.normalise(crops)
    third, fourth = recogniser.feature_maps(image)[2:]
    torch.testing.assert_close(stages(image), third)
    first = recogniser.backbone.get_submodule("layer4.0")(third)
    torch.testing.assert_close(block(third), first)
    assert first.shape == fourth.shape
    assert not any(p.requires_grad for p in stages.parameters())
    assert all(p.requires_grad for p in block.parameters())
    assert FirstStages.preprocess(112) == recogniser.preprocess


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops were looked at, look by look."""
    looks: list[int] = []
    look = SeenOnce._look

    def watched(self: SeenOnce, crops: Tensor) -> Tensor:
        looks.append(len(crops))
        return look(self, crops)

    monkeypatch.setattr(SeenOnce, "_look", watched)
    return looks


def test_the_same_crops_are_seen_once_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    stages = FirstStages().eval()
    one, other = SeenOnce(stages, torch.float32), SeenOnce(stages, torch.float32)
    looks = counted(monkeypatch)
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        with seeing_once():
            assert torch.equal(one(first), other(first.clone()))
            assert len(looks) == 1
            assert not torch.equal(one(second), one(first))
            assert len(looks) == 2
            with torch.no_grad():
                next(stages.parameters()).mul_(2)
            changed = SeenOnce(stages, torch.float32)
            assert not torch.equal(changed(first), one(first))
            assert len(looks) == 3
        one(first)
        one(first)
    assert len(looks) == 5
    assert shared._seen.get() is None


def test_age_and_actions_of_a_face_need_one_look(fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    age, actions = FPAge(FPAgeConfig.compact()).eval(), MLCR(MLCRConfig.compact()).eval()
    assert isinstance(actions.shared, FirstStages)
    begin_as_recogniser(actions.shared)
    age.parser.get_submodule("stages").load_state_dict(actions.shared.state_dict())
    looks = counted(monkeypatch)
    photo, face = fakes.textured(300, 300), fakes.face_at((150, 150), 60)
    together = TraitReader(age=age, actions=actions).read(photo, [face])[0]
    assert looks == [1, 1]  # the face for both, and its mirror image for the age
    alone = TraitReader(age=age).read(photo, [face])[0]
    assert looks == [1, 1, 1, 1]
    assert together.age == alone.age
    assert together.actions is not None
