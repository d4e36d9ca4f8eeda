"""DLE: which frames are kept, sizes of the published networks, no leak between videos, stages of the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.systems.liveness.dle.network import DLE, DLEConfig, kept_frames
from facewright.systems.liveness.dle.training import DLETraining, frame_loss

if TYPE_CHECKING:
    from types import SimpleNamespace


def test_kept_frames() -> None:
    assert kept_frames(95).tolist() == [29, 59, 89]  # the last full frame of each clip; 5 frames are left over
    assert kept_frames(95, pick="first").tolist() == [0, 30, 60]
    assert kept_frames(95, pick="middle").tolist() == [15, 45, 75]
    assert kept_frames(30).tolist() == [29]
    assert kept_frames(29).tolist() == [14]  # the published script gives nothing
    assert kept_frames(1).tolist() == [0]
    assert kept_frames(100, clip=50).tolist() == [49, 99]
    with pytest.raises(UsageError, match="nothing to keep"):
        kept_frames(0)
    with pytest.raises(UsageError, match="last, first, middle"):
        kept_frames(60, pick="best")  # type: ignore[arg-type]


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = DLE()

    def recurrent(name: str) -> int:
        weights = model.get_submodule(f"{name}.rnn").named_parameters()
        return sum(p.numel() for key, p in weights if not key.startswith("bias_hh"))

    assert model.features.out_features == 1920
    assert recurrent("bilstm") == 9_684_000
    assert recurrent("gru") == 116_460
    assert recurrent("lstm") == 11_684_000
    assert recurrent("meta") == 1_840
    assert 18.0e6 < sum(p.numel() for p in model.features.parameters()) < 18.2e6


@pytest.fixture
def model() -> DLE:
    torch.manual_seed(0)
    return DLE(DLEConfig(size=32, blocks=(1, 1, 1, 1), growth=4, width=8, bilstm=6, gru=4, lstm=5, meta=4)).eval()


def test_the_last_network_sees_the_sum_of_three_softmaxes(model: DLE) -> None:
    frames = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        features = model.describe_frames(frames)
        total = sum(learner(features).softmax(-1) for learner in model.learners)
        torch.testing.assert_close(model.votes(features), total)
        assert model.votes(features).sum(-1).allclose(torch.tensor(3.0))
        torch.testing.assert_close(model(frames), model.meta(total))


def test_a_video_is_judged_without_the_videos_beside_it(model: DLE) -> None:
    frames = torch.randn(4, 3, 3, 32, 32)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        together, shuffled = model(frames), model(frames[order])
        alone = torch.cat([model(one[None]) for one in frames])
    torch.testing.assert_close(shuffled, together[order])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_padding_does_not_count() -> None:
    logits = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = frame_loss(logits, torch.tensor([1, 0]), torch.tensor([3, 1]))
    wanted = F.cross_entropy(torch.cat([logits[0], logits[1, :1]]), torch.tensor([1, 1, 1, 0]))
    assert loss.item() == pytest.approx(wanted.item())
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad[1, 1:].abs().max()) == 0.0


def test_stages_train_what_they_name(model: DLE) -> None:
    dim = model.features.out_features
    batch = {
        "features": torch.randn(4, 3, dim),
        "length": torch.tensor([3, 3, 2, 3]),
        "live": torch.tensor([1, 0, 1, 0]),
    }
    for stage, wanted in (("learners", {"bilstm", "gru", "lstm"}), ("meta", {"meta"})):
        model.zero_grad()
        logs = DLETraining(model, stage=stage).step(batch, lambda name, loss: loss.backward(), 0.0)  # type: ignore[arg-type]
        moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        assert moved == wanted
        assert all(np.isfinite(float(value)) for value in logs.values())
    assert not any(p.requires_grad for p in model.features.parameters())
    assert not model.gru.rnn.bias_hh_l0.requires_grad
    with pytest.raises(UsageError, match="choose learners or meta"):
        DLETraining(model, stage="all")  # type: ignore[arg-type]


def test_photos_are_videos_of_one_frame(model: DLE, fakes: SimpleNamespace) -> None:
    photo = fakes.textured(90, 120)
    faces = [fakes.face_at((60, 45), 10.0), fakes.face_at((30, 45), 10.0)]
    votes = model.live(photo, faces)
    assert votes.shape == (2,)
    assert votes[0] == votes[1] == pytest.approx(model.live_video([photo])[0])
    assert model.live(photo, []).shape == (0,)
    assert model.live_video([photo] * 3).shape == (3,)
    with pytest.raises(UsageError, match=r"\(N, T, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 64, 64))
