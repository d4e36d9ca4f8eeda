"""SFace: parity of the published networks, and the scaling of their input."""

from __future__ import annotations

import pytest
import torch

from facewright.systems.recognise.sface.convert import import_published
from facewright.systems.recognise.sface.network import SFace, SFaceConfig


@pytest.mark.shared
@pytest.mark.parametrize(("name", "backbone"), [("sface-ir50", "sface_ir50"), ("sface-mobilefacenet", "mobilefacenet")])
@torch.no_grad()
def test_equals_published_from_raw_pixels(parity, name: str, backbone: str) -> None:
    arrays, state, _ = parity(name)
    net = import_published(state)
    assert net.config.backbone == backbone
    published = torch.from_numpy(arrays["out_embedding"])
    pixels = torch.from_numpy(arrays["in_image"]).permute(0, 2, 3, 1).numpy()
    assert pixels.max() > 2, "the published input is raw grey levels"
    out = net(net.normalise(pixels))
    assert (out - published).abs().max() < 1e-4 * published.abs().max()


def test_published_scaling_is_ten_times_the_usual() -> None:
    assert SFace.preprocess_for(SFaceConfig()).std[0] == pytest.approx(12.8)
    assert SFace.preprocess_for(SFaceConfig(multiplier=0.0078125)).std[0] == pytest.approx(128)
