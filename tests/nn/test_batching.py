"""Padding of batches to few different sizes."""

from __future__ import annotations

import torch

from facewright.nn.batching import padded


def test_batches_grow_to_powers_of_two_by_repeating_the_first() -> None:
    x = torch.arange(10.0).view(5, 2)
    out = padded(x)
    assert out.shape == (8, 2)
    assert torch.equal(out[:5], x)
    assert torch.equal(out[5:], x[:1].expand(3, 2))
    assert torch.equal(padded(x[:4]), x[:4])
    assert len(padded(x[:1])) == 1
    assert len(padded(x[:3], 16)) == 16
    assert len(padded(torch.zeros(17), 16)) == 32
