"""Every term of a training pulls the right way, counts where it should, and is fed what it should be.

Each is held against a worked value on networks that answer what the test decides.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facewright.geometry.templates import template_points
from facewright.losses.face import FaceDistance
from facewright.systems.detect.mos.network import BIN_DEGREES, LOWEST_ANGLE
from facewright.systems.detect.mos.refiner import Refinement
from facewright.systems.detect.mos.training import MOSTraining, RefinerTraining, stitch
from facewright.systems.landmarks.facewarp.network import NEAR
from facewright.systems.landmarks.facewarp.training import spread_loss
from facewright.systems.parse.segface.training import SegFaceTraining
from facewright.systems.restore.facedetail.training import FaceDetailTraining
from facewright.systems.restore.frgp.network import FRGP, FRGPConfig
from facewright.systems.restore.frgp.training import FRGPTraining
from facewright.systems.restore.restoreformer.training import DictionaryTraining, RestorationTraining

SIDE = 32
FLOOR = 4e-4  # 40 dB for pictures in [−1, 1]


def pictures(value: int, count: int = 2) -> Tensor:
    return torch.full((count, SIDE, SIDE, 3), value, dtype=torch.uint8)


class Answer(nn.Module):
    """In place of a restorer: answers one level everywhere and an estimate, both trainable, and notes what it got."""

    def __init__(self, level: float, estimate: float = 0.0, codes: Tensor | None = None) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.guess = nn.Parameter(torch.full((6,), estimate))
        self.seen: list[Tensor] = []
        self.config = SimpleNamespace(size=SIDE, codes=8)

    def forward(self, image: Tensor, **options: Any) -> Any:
        self.seen.append(image.detach().clone())
        aux = {"degradation": self.guess.expand(len(image), 6), "code_loss": 0 * self.level.sum()}
        return self.level + 0 * image, aux


def frgp_step(answer: Answer, batch: dict[str, Tensor], **options: Any) -> dict[str, float]:
    """One step of FRGP's training around an answer; gradients stay in the answer."""
    torch.manual_seed(0)
    training = FRGPTraining(FRGP(FRGPConfig.compact()), **options)
    training.model = answer  # type: ignore[assignment]
    if training.identity_weight or training.features_weight:
        training.face = lambda a, b: FaceDistance((a - b).square().mean(), (a - b).abs().mean())  # type: ignore
        training.face.to = lambda device: training.face  # type: ignore
    logs = training.step(batch, lambda name, loss: loss.backward(), 0.0)
    return {name: float(value) for name, value in logs.items()}


def frgp_batch(low: int = 64, high: int = 192, *, half: bool = False) -> dict[str, Tensor]:
    mask = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    if half:
        mask[..., SIDE // 2 :] = False
    return {"lq": pictures(low), "hq": pictures(high), "mask": mask, "degradation": torch.full((2, 6), 0.5)}


HIGH = 192 / 127.5 - 1


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewright.systems.restore.frgp.training._face_loss", lambda size: None)


def test_log_term_is_the_log_of_the_masked_error_and_pulls_towards_the_truth() -> None:
    for level in (HIGH - 0.2, HIGH + 0.2):
        answer = Answer(level)
        logs = frgp_step(answer, frgp_batch(), log_weight=2.0, edge_weight=0.0, estimate_weight=0.0)
        assert logs["log"] == pytest.approx(2.0 * math.log1p(0.2**2 / FLOOR), rel=0.02)
        assert answer.level.grad is not None
        assert math.copysign(1, float(answer.level.grad)) == math.copysign(1, level - HIGH)


def test_log_term_counts_where_the_mask_says() -> None:
    batch = frgp_batch(half=True)
    batch["hq"][:, :, SIDE // 2 :] = 0
    logs = frgp_step(Answer(HIGH - 0.2), batch, log_weight=1.0, edge_weight=0.0, estimate_weight=0.0)
    assert logs["log"] == pytest.approx(math.log1p(0.2**2 / FLOOR), rel=0.02)


@pytest.mark.parametrize("weight", ["edge_weight", "ssim_weight"])
def test_edges_and_structure_pull_towards_the_truth(weight: str) -> None:
    """The answer is a share of the true pattern: the more of it, the less the term."""
    pattern = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    pattern[:, ::4] = 200
    batch = frgp_batch() | {"hq": pattern}
    truth = pattern.permute(0, 3, 1, 2).float() / 127.5 - 1

    class Share(Answer):
        def forward(self, image: Tensor, **options: Any) -> Any:
            return self.level * truth, super().forward(image)[1]

    found = {}
    for share in (0.5, 0.8):
        answer = Share(share)
        options = {"edge_weight": 0.0, "ssim_weight": 0.0, "estimate_weight": 0.0} | {weight: 2.0}
        found[share] = frgp_step(answer, batch, **options)[weight.removesuffix("_weight")]
        alone = Share(share)
        frgp_step(alone, batch, **(options | {weight: 0.0}))
        assert float(answer.level.grad) < float(alone.level.grad)
    assert 0 < found[0.8] < found[0.5]
    if weight == "edge_weight":
        steps = truth.diff(dim=2).abs().mean() / 2
        assert found[0.5] == pytest.approx(2.0 * 0.5 * float(steps), rel=1e-4)


def test_a_discriminator_learns_to_tell_the_truth_from_what_was_restored() -> None:
    torch.manual_seed(0)
    training = FRGPTraining(FRGP(FRGPConfig.compact()), discriminator_width=8)
    real, fake, mask = torch.full((4, 3, 64, 64), 0.8), torch.full((4, 3, 64, 64), -0.8), torch.ones(4, 1, 64, 64)
    optimiser = torch.optim.SGD(training.discriminator.parameters(), 0.01)

    def apart() -> float:
        with torch.no_grad():
            return float(training.discriminator(real)[0].mean() - training.discriminator(fake)[0].mean())

    def update(name: str, loss: Tensor) -> None:
        assert name == "discriminator"
        loss.backward()
        optimiser.step()

    before = apart()
    training._discriminate(fake, real, mask, update)
    assert apart() > before


@pytest.mark.parametrize(("name", "option"), [("identity", "identity_weight"), ("perceptual", "features_weight")])
def test_face_terms_are_added_and_pull_towards_the_truth(name: str, option: str) -> None:
    answer = Answer(HIGH - 0.2)
    logs = frgp_step(answer, frgp_batch(), edge_weight=0.0, estimate_weight=0.0, **{option: 3.0})
    assert logs[name] == pytest.approx(3.0 * (0.2**2 if name == "identity" else 0.2), rel=1e-3)
    alone, both = Answer(HIGH - 0.2), Answer(HIGH - 0.2)
    frgp_step(alone, frgp_batch(), edge_weight=0.0, estimate_weight=0.0)
    frgp_step(both, frgp_batch(), edge_weight=0.0, estimate_weight=0.0, **{option: 3.0})
    assert float(both.level.grad) < float(alone.level.grad) < 0


def test_face_terms_see_the_truth_where_the_mask_hides() -> None:
    answer = Answer(HIGH - 0.2)
    logs = frgp_step(answer, frgp_batch(half=True), edge_weight=0.0, estimate_weight=0.0, identity_weight=1.0)
    assert logs["identity"] == pytest.approx(0.5 * 0.2**2, rel=1e-3)


def test_estimate_term_is_the_distance_to_the_true_damage() -> None:
    answer = Answer(HIGH, estimate=0.9)
    logs = frgp_step(answer, frgp_batch(), estimate_weight=2.0)
    assert logs["estimate"] == pytest.approx(2.0 * 0.4, rel=1e-4)
    assert (answer.guess.grad > 0).all()


def test_a_restorer_is_fed_the_damaged_picture_and_judged_by_the_good_one() -> None:
    answer = Answer(HIGH)
    logs = frgp_step(answer, frgp_batch(low=64), edge_weight=0.0, estimate_weight=0.0)
    assert float(answer.seen[0].mean()) == pytest.approx(64 / 127.5 - 1, abs=1e-5)
    assert logs["l1"] == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize(
    ("stage", "level"), [(DictionaryTraining, 192 / 127.5 - 1), (RestorationTraining, 64 / 127.5 - 1)]
)
def test_a_dictionary_learns_from_good_faces_and_its_restorer_from_damaged_ones(stage: Any, level: float) -> None:
    training = stage.__new__(stage)
    answer = Answer(HIGH)
    training.model, training.judge = answer, None
    found = None
    for method in ("validate",):
        try:
            getattr(training, method)(frgp_batch())
        except (KeyError, TypeError, AttributeError) as error:
            found = error  # what comes after the forward pass is not of interest here
    assert answer.seen, found
    assert float(answer.seen[0].mean()) == pytest.approx(level, abs=1e-5)


def test_the_step_of_both_stages_is_fed_the_same() -> None:
    fed: list[Tensor] = []

    class Stop(Exception):
        pass

    class Spy(nn.Module):
        config = SimpleNamespace(size=SIDE)

        def forward(self, image: Tensor, **options: Any) -> Any:
            fed.append(image)
            raise Stop

    for stage, level in ((DictionaryTraining, 192), (RestorationTraining, 64)):
        training = stage.__new__(stage)
        training.model = Spy()
        with pytest.raises(Stop):
            training.step(frgp_batch(), lambda name, loss: None, 0.0)
        assert float(fed[-1].mean()) == pytest.approx(level / 127.5 - 1, abs=1e-5)


# --- the restorer of detail


class Detail(nn.Module):
    """In place of FaceDetail: a share of a picture, and an estimate; `config.size` is that of the crop."""

    def __init__(self, share: float, picture: Tensor) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.picture = picture
        self.config = SimpleNamespace(size=64)

    def forward(self, image: Tensor, **options: Any) -> Any:
        return self.share * self.picture, torch.zeros(len(image), 5)


def detail_step(model: Detail, truth: Tensor, place: Tensor, **options: Any) -> dict[str, float]:
    training = FaceDetailTraining(
        model,  # type: ignore[arg-type]
        gan_weight=0.0,
        **({"log_weight": 0.0, "edge_weight": 0.0, "energy_weight": 0.0, "estimate_weight": 0.0} | options),
    )
    batch = {
        "lq": truth,
        "hq": truth,
        "mask": torch.ones(1, 1, *truth.shape[1:3], dtype=torch.bool),
        "place": place,
        "damage": torch.zeros(1, 5),
    }
    logs = training.step(batch, lambda name, loss: loss.backward(), 0.0)
    return {name: float(value) for name, value in logs.items()}


def test_texture_energy_pulls_towards_as_much_texture_as_the_truth() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (1, 64, 64, 3), generator=rng, dtype=torch.uint8)
    picture = truth.permute(0, 3, 1, 2).float() / 127.5 - 1
    place = torch.zeros(1, 2)
    grads = {}
    for share in (0.5, 1.5):
        alone, both = Detail(share, picture), Detail(share, picture)
        without = detail_step(alone, truth, place)
        energy = detail_step(both, truth, place, energy_weight=1.0)["energy"]
        assert without["energy"] == 0
        assert energy > 0
        grads[share] = float(both.share.grad) - float(alone.share.grad)
    assert grads[0.5] < 0 < grads[1.5]


def test_errors_at_an_eye_cost_more_than_in_the_corner() -> None:
    truth = torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)
    level = 128 / 127.5 - 1
    x, y = template_points("ffhq", 64)[0].round().astype(int)
    cost = {}
    for name, (row, column) in {"eye": (y, x), "corner": (60, 3)}.items():
        picture = torch.full((1, 3, 64, 64), level)
        picture[:, :, row - 1 : row + 2, column - 1 : column + 2] += 0.5
        model = Detail(1.0, picture)
        cost[name] = detail_step(model, truth, torch.zeros(1, 2), region_weight=2.0)["pixel"]
    assert cost["eye"] > 1.5 * cost["corner"] > 0


# --- parsing


class Logits(nn.Module):
    """In place of a parser: the same trainable logits (C,) for every pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(classes))


def test_photos_without_exact_labels_teach_the_parser() -> None:
    training = SegFaceTraining.__new__(SegFaceTraining)
    parser = Logits(19)
    training.classes = tuple(f"class {number}" for number in range(19))
    training.everything, training.partial_weight, training.doubts = (1 << 19) - 1, 0.5, {}
    training.frozen, training.every = torch.nn.ModuleList(), 2  # every second row and column says the same here
    training.logits = lambda batch: parser.values.view(1, -1, 1, 1).expand(2, 19, 8, 8)  # type: ignore[method-assign]
    unknown = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    allowed = torch.full((2, 8, 8), 1 << 3, dtype=torch.int64)
    batch = {"labels": unknown, "allowed": allowed, "expected": torch.full((2, 8, 8), 3, dtype=torch.uint8)}
    logs = training.step(batch, lambda name, loss: loss.backward(), 0.0)
    assert float(logs["partial"]) == pytest.approx(math.log(19), rel=1e-3)
    gradient = parser.values.grad
    assert gradient is not None
    assert float(gradient[3]) < 0, "the class that is allowed must become likelier"
    assert (gradient[torch.arange(19) != 3] > 0).all()
    assert float(logs["loss"]) == pytest.approx(float(logs["exact"]) + 0.5 * float(logs["partial"]), rel=1e-5)


# --- landmarks


def test_how_sure_a_landmarker_is_does_not_move_its_points() -> None:
    points, scale = torch.zeros(1, 68, 2, requires_grad=True), torch.full((1, 68), 0.02, requires_grad=True)
    found = SimpleNamespace(last=points, scale=scale)
    truth = torch.full((1, 68, 2), 0.1)
    loss = spread_loss(found, truth, torch.ones(1, 68))  # type: ignore[arg-type]
    loss.backward()
    assert points.grad is None or not points.grad.any()
    assert (scale.grad < 0).all()
    assert float(loss) == pytest.approx(0.1 * 2**0.5 / 0.02 + 2 * math.log(0.02 / NEAR), rel=1e-5)


# --- detection


def test_pose_of_the_second_look_is_learned_from_faces_alone() -> None:
    training = RefinerTraining.__new__(RefinerTraining)
    training.beta = 0.03
    angles = torch.zeros(2, 3, requires_grad=True)
    found = Refinement(torch.zeros(2, 5, 2), angles, torch.zeros(2))
    truth = torch.tensor([[0.5, -0.5, 0.3], [9.0, 9.0, 9.0]])
    batch = {"face": torch.tensor([1, 0]), "points": torch.zeros(2, 5, 2), "angles": truth}
    losses = training.losses(found, batch)
    worked = sum(abs(a) - 0.05 for a in (0.5, -0.5, 0.3)) / 3  # SmoothL1 beyond beta = 0.1
    assert float(losses["pose"]) == pytest.approx(worked, rel=1e-5)
    losses["pose"].backward()
    assert angles.grad is not None
    assert torch.equal(angles.grad[0].sign(), -truth[0].sign())
    assert not angles.grad[1].any()


@pytest.mark.parametrize("pose", [(30.0, 0.0, 0.0), (-30.0, 10.0, 0.0), (0.0, 20.0, -15.0)])
def test_bins_of_the_detector_learn_the_yaw_that_published_networks_mean(pose: tuple[float, float, float]) -> None:
    """Their yaw has the other sign than `face.Pose`; bins that say the pose in their signs cost next to nothing."""
    training = MOSTraining.__new__(MOSTraining)
    training.angle_weight, training.bin_centre = 0.005, True
    yaw, pitch, roll = pose
    cost = {}
    for sign in (-1, 1):
        angles = torch.tensor([sign * yaw, pitch, roll])
        bins = torch.full((1, 3, 66), -30.0)
        bins[0, range(3), ((angles - LOWEST_ANGLE) / BIN_DEGREES).long()] = 30.0
        cost[sign] = float(training._pose_loss(bins, torch.tensor([pose])))
    assert cost[-1] < 0.1
    assert cost[1] > 10 or yaw == 0


def test_points_of_the_second_look_are_learned_from_faces_alone() -> None:
    training = RefinerTraining.__new__(RefinerTraining)
    training.beta = 0.03
    points = torch.zeros(2, 5, 2, requires_grad=True)
    found = Refinement(points, torch.zeros(2, 3), torch.zeros(2))
    batch = {"face": torch.tensor([1, 0]), "points": torch.full((2, 5, 2), 0.4), "angles": torch.zeros(2, 3)}
    losses = training.losses(found, batch)
    assert float(losses["points"]) == pytest.approx(10 * (0.4 - 0.015), rel=1e-5)
    losses["points"].backward()
    assert points.grad is not None
    assert (points.grad[0] < 0).all()
    assert not points.grad[1].any()


def test_labels_of_mosaics_belong_to_the_picture_in_their_quarter() -> None:
    count, side = 4, 16
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    faces = torch.full((count, 1, 18), -1.0)
    for number in range(count):
        row, column = 2 + 2 * number, 12 - 2 * number
        images[number, :, row : row + 2, column : column + 2] = 50 * (number + 1)
        faces[number, 0, :4] = torch.tensor([column - 0.5, row - 0.5, column + 1.5, row + 1.5])
        faces[number, 0, 4:14] = torch.tensor([column + 0.5, row + 0.5]).repeat(5)
    canvas, labels = stitch(images, faces)
    for mosaic in range(count):
        for quarter in range(4):
            shown = (mosaic + quarter) % count
            x0, y0, x1, y1 = labels[mosaic, quarter, :4]
            x, y = labels[mosaic, quarter, 4:6]
            assert (float(x1 - x0), float(y1 - y0)) == (1.0, 1.0)
            assert canvas[mosaic, 0, round(float(y)), round(float(x))] == 50 * (shown + 1)
            assert float(x0) < float(x) < float(x1)
            assert float(y0) < float(y) < float(y1)
