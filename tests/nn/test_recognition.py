"""Recognition backbones by name."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.recognition import BACKBONES, create_backbone

MILLIONS = {
    "iresnet18": 24.03,
    "iresnet34": 34.14,
    "iresnet50": 43.59,
    "iresnet100": 65.16,
    "iresnet200": 118.83,
    "iresnet_thin": 0.3832,
    "mobilefacenet": 1.20,
    "mbf": 2.06,
    "mbf_large": 6.31,
    "sface_ir50": 43.57,
    "sface_ir101": 65.13,
    "ir18": 24.02,
    "ir34": 34.13,
    "ir50": 43.59,
    "ir101": 65.15,
    "ir_se50": 43.80,
    "vit_t": 19.1,
    "vit_s": 76.0,
    "vit_b": 113.8,
    "vit_l": 255.7,
}


def test_all_names_are_covered():
    assert set(MILLIONS) == set(BACKBONES)


@pytest.mark.parametrize("name", MILLIONS)
def test_size_and_output(name):
    with torch.device("meta"):
        net = create_backbone(name, 512)
        out = net.eval()(torch.empty(2, 3, 112, 112))
    assert out.shape == (2, 512)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(MILLIONS[name], rel=4e-3)


@pytest.mark.parametrize("name", ["iresnet18", "mbf", "mobilefacenet", "ir18", "vit_t"])
def test_width_of_the_embedding_is_free(name):
    with torch.device("meta"):
        assert create_backbone(name, 128).eval()(torch.empty(1, 3, 112, 112)).shape == (1, 128)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown backbone 'resnet50'; known: iresnet18, .*vit_l"):
        create_backbone("resnet50", 512)
