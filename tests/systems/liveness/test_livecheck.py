"""LiveCheck: the map is the decision, calibration, and what its loss pulls at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.systems.liveness.livecheck.network import KINDS, LiveCheck, LiveCheckConfig, live_log_odds
from facewright.systems.liveness.livecheck.training import LiveCheckTraining, calibrate, kind_loss
from facewright.tasks.liveness import LivenessExaminer

if TYPE_CHECKING:
    from types import SimpleNamespace


@pytest.fixture
def model() -> LiveCheck:
    torch.manual_seed(0)
    return LiveCheck(LiveCheckConfig(size=48, widths=(8, 8, 8, 8), depth=1)).eval()


def test_log_odds_are_against_all_attacks_together() -> None:
    logits = torch.tensor([[1.0, 0.5, -0.3, 2.0], [5.0, 0.0, 0.0, 0.0]])
    shares = logits.softmax(-1)
    torch.testing.assert_close(live_log_odds(logits), torch.logit(shares[:, 0]))


def test_evidence_is_calibrated_and_lies_on_the_photo(model: LiveCheck, fakes: SimpleNamespace) -> None:
    assert isinstance(model, LivenessExaminer)
    photo = fakes.textured(200, 240)
    faces = [fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)]
    model.scale.fill_(2.0)
    model.offset.fill_(-0.5)
    found = model.examine(photo, faces)
    crops = np.stack([model.preprocess.crop.cut(photo, face).image for face in faces])
    with torch.inference_mode():
        logits = model(model.normalise(crops))
    odds = 2.0 * live_log_odds(logits.mean((2, 3))) - 0.5
    np.testing.assert_allclose([one.live for one in found], odds.sigmoid(), atol=1e-5)
    np.testing.assert_allclose(model.live(photo, faces), odds.sigmoid(), atol=1e-5)
    assert found[0].map.shape == (6, 6)
    attack = 1 - (2.0 * live_log_odds(logits[0].movedim(0, -1)) - 0.5).sigmoid()
    np.testing.assert_allclose(found[0].map, attack, atol=1e-4)  # hot where it looks like an attack
    assert set(found[0].attacks) == set(KINDS[1:])
    assert sum(found[0].attacks.values()) == pytest.approx(1)
    assert found[0].kind == max(found[0].attacks, key=lambda name: found[0].attacks[name])
    np.testing.assert_allclose(found[0].matrix, model.preprocess.crop.matrix(faces[0]))
    single = model.examine(photo, faces[1:])[0]
    assert single.live == pytest.approx(found[1].live, abs=1e-5)  # a batch says what single faces say
    assert model.examine(photo, []) == []


def test_loss_asks_the_whole_face_and_every_cell() -> None:
    cells = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = kind_loss(cells, torch.tensor([1]))
    assert loss.item() == pytest.approx(1.5 * np.log(4), abs=1e-5)
    loss.backward()
    assert cells.grad is not None
    assert bool((cells.grad[0, 1] < 0).all())  # more of what it is
    assert bool((cells.grad[0, [0, 2, 3]] > 0).all())
    certain = torch.zeros(1, 4, 2, 2)
    certain[:, 1] = 8.0
    assert float(kind_loss(certain, torch.tensor([1]))) < float(kind_loss(certain, torch.tensor([0])))


def test_calibration_makes_log_odds_mean_what_they_say(model: LiveCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    live = np.arange(300) < 150
    logits = torch.zeros(300, len(KINDS), 1, 1)
    logits[:, 1:] = -float(np.log(3))  # three attacks that weigh 1 together
    logits[:150, 0], logits[150:, 0] = 20.0, 14.0  # far off, and much too far apart for what they say
    live[::10] = ~live[::10]  # a tenth says the opposite of what it looks like
    monkeypatch.setattr(model, "cell_logits", lambda crops: logits)
    calibrate(model, np.zeros((300, 48, 48, 3), np.uint8), live)
    stated = model.log_odds(logits.mean((2, 3))).sigmoid()
    assert float(stated[0]) == pytest.approx(0.9, abs=0.01)
    assert float(stated[-1]) == pytest.approx(0.1, abs=0.01)


def test_steps_learn_a_difference(model: LiveCheck) -> None:
    rng = np.random.default_rng(0)
    kinds = torch.arange(32) % 4
    image = (
        rng.integers(0, 60, (32, 48, 48, 3), dtype=np.uint8)
        + (60 * kinds.numpy()).astype(np.uint8)[:, None, None, None]
    )
    batch = {"image": torch.from_numpy(image), "kind": kinds}
    task = LiveCheckTraining(model.train(), lr=1e-2)
    optimiser = task.optimisers()["model"]
    losses: list[float] = []

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    for _ in range(12):
        task.step(batch, update, 0.0)
    assert losses[-1] < 0.8 * losses[0]
    found = task.validate(batch)
    assert set(found) == {"loss", "live", "attack"}


def test_refusals(model: LiveCheck) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, 48, 48\)"):
        model(torch.zeros(1, 3, 80, 80))
    with pytest.raises(UsageError, match="multiple of 8"):
        LiveCheck(LiveCheckConfig(size=50))
