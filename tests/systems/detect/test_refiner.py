"""The second look: crops undo rotation and scale, corrections return to photo pixels, losses count faces only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from facewright.face import Face, Pose
from facewright.geometry.similarity import transform_points
from facewright.systems.detect.mos import network as mos
from facewright.systems.detect.mos import refiner
from facewright.systems.detect.mos.refiner import TEMPLATE, PointRefiner, Refinement
from facewright.systems.detect.mos.training import RefinerTraining


class Fixed(nn.Module):
    """Stands in for the network: always the same correction."""

    def __init__(self, shift: tuple[float, float], angles: tuple[float, float, float], logit: float) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(()))
        self.shift, self.angle, self.logit = torch.tensor(shift), torch.tensor(angles), logit

    def forward(self, crops: torch.Tensor) -> Refinement:
        count = len(crops)
        return Refinement(self.shift.expand(count, 5, 2), self.angle.expand(count, 3), torch.full((count,), self.logit))


def points_at(scale: float, degrees: float, centre: tuple[float, float]) -> np.ndarray:
    turn = np.radians(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return ((TEMPLATE - 32) @ linear.T + centre).astype(np.float32)


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (3.0, 40.0), (0.5, -120.0)])
def test_the_crop_is_upright_and_of_one_size(scale: float, degrees: float) -> None:
    points = points_at(scale, degrees, (150.0, 120.0))
    matrix = refiner.CROP.align(points)
    np.testing.assert_allclose(transform_points(matrix, points), TEMPLATE, atol=1e-3)
    assert refiner.rotation(matrix) == pytest.approx(-degrees, abs=1e-3)


def test_corrections_and_angles_return_to_the_photo() -> None:
    points = points_at(2.0, 90.0, (100.0, 100.0))
    network = Fixed(shift=(0.5, 0.0), angles=(0.5, -1.0, 0.1), logit=0.0)
    ((found, angles, score),) = refiner.refine_points(network, np.zeros((200, 200, 3), np.uint8), [points])  # type: ignore[arg-type]
    along = 0.5 * refiner.EYE_DISTANCE * 2.0  # half an eye distance to the right in the crop is down in the photo
    np.testing.assert_allclose(found, points + np.array([0, along]), atol=1e-3)
    assert angles.tolist() == pytest.approx([15.0, -30.0, 3.0 + 90.0], abs=1e-4)
    assert score == 0.5


def test_second_look_vetoes_and_ranks_by_the_joint_score() -> None:
    def face(score: float) -> Face:
        return Face(np.array([50, 50, 150, 180], np.float32), score, points_at(1.5, 0, (100, 110)), Pose(0, 0, 0))

    image = np.zeros((200, 200, 3), np.uint8)
    sure = Fixed((0, 0), (0, 0, 0), logit=8.0)
    kept = mos.second_look(sure, image, [face(0.5), face(0.9), face(0.1)], threshold=0.5)  # type: ignore[arg-type]
    assert [f.score for f in kept] == pytest.approx([0.9**0.5, 0.5**0.5], abs=1e-3)
    assert mos.second_look(Fixed((0, 0), (0, 0, 0), logit=-8.0), image, [face(0.99)], threshold=0.5) == []  # type: ignore[arg-type]
    assert mos.second_look(sure, image, [], threshold=0.5) == []  # type: ignore[arg-type]


def test_only_faces_teach_points_and_angles() -> None:
    training = RefinerTraining(mos.MOS(mos.MOSConfig("shufflenetv2", 0.25, 16, False, 8, refine=True)))
    found = Refinement(torch.ones(2, 5, 2), torch.ones(2, 3), torch.tensor([9.0, -9.0]))
    batch = {"face": torch.tensor([1.0, 0.0]), "points": torch.ones(2, 5, 2), "angles": torch.ones(2, 3)}
    batch["points"][1] = 77.0
    assert all(float(v) < 1e-3 for v in training.losses(found, batch).values())
    batch["points"][0, 0, 0] += 1.0
    assert float(training.losses(found, batch)["points"]) == pytest.approx(10 * (1 - 0.015) / 10, rel=1e-4)


def test_training_moves_the_refiner_and_nothing_else() -> None:
    torch.manual_seed(0)
    training = RefinerTraining(mos.MOS(mos.MOSConfig("shufflenetv2", 0.25, 16, False, 8, refine=True)).train())
    before = {k: v.clone() for k, v in training.model.named_parameters()}
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    batch = {
        "image": torch.randint(0, 255, (8, 3, 64, 64), dtype=torch.uint8),
        "face": torch.ones(8),
        "points": torch.randn(8, 5, 2) * 0.1,
        "angles": torch.randn(8, 3) * 0.2,
    }
    losses = [float(training.step(batch, update, 0.0)["loss"]) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    for name, value in training.model.named_parameters():
        assert torch.equal(value, before[name]) is not name.startswith("refiner."), name


def test_size_of_the_network() -> None:
    assert sum(p.numel() for p in PointRefiner().parameters()) < 400_000
