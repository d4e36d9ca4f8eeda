"""MMRB: size, start near the identity, resampling modes, ablation switches and the weak-texture gate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.mmrb import MMRB, WeakTextureGate

ABLATIONS: list[dict[str, Any]] = [{}, {"paths": "short"}, {"paths": "long"}, {"mix": False}, {"gate": False}]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_size_at_256_channels_is_the_sheets():
    assert count(MMRB(256)) / 1e6 == pytest.approx(1.288, abs=0.001)


def test_starts_near_the_identity():
    torch.manual_seed(0)
    x = torch.randn(4, 32, 16, 16)
    change = MMRB(32)(x) - x
    assert 0 < change.std() < 0.1 * x.std()


@pytest.mark.parametrize(("mode", "side"), [("none", 12), ("down", 6), ("up", 24)])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_shapes_and_gradients(mode, side, options):
    torch.manual_seed(0)
    block = MMRB(16, 24, mode, **options)
    out = block(torch.randn(2, 16, 12, 12))
    assert out.shape == (2, 24, side, side)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in block.parameters())


def test_switches_remove_what_they_name():
    full = count(MMRB(32))
    assert all(count(MMRB(32, **options)) < full for options in ABLATIONS[1:])


def test_samples_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    block = MMRB(16, 8, "down").double()
    x = torch.randn(3, 16, 8, 8, dtype=torch.double)
    torch.testing.assert_close(block(x)[1:2], block(x[1:2]))


def test_gate_sees_texture_and_not_brightness():
    torch.manual_seed(0)
    gate = WeakTextureGate(8, 8).double()
    x = torch.randn(1, 8, 12, 12, dtype=torch.double)
    torch.testing.assert_close(gate(x), gate(x + 5))
    assert (gate(x) - gate(3 * x)).abs().max() > 1e-3
    flat = torch.sigmoid(gate.excite(torch.nn.functional.leaky_relu(gate.squeeze.bias, 0.2)))
    torch.testing.assert_close(gate(torch.full_like(x, 7.0)).flatten(), flat)


def test_unknown_switches_are_refused():
    with pytest.raises(UsageError, match="sideways"):
        MMRB(8, mode="sideways")  # type: ignore[arg-type]
