"""EasyPortrait's baselines: sizes, key maps of mmsegmentation, blocks by hand, whole photos in and labels out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.parse.easyportrait import convert
from facewright.systems.parse.easyportrait import network as ep
from facewright.systems.parse.easyportrait.network import EasyPortrait, EasyPortraitConfig, ReducedAttention
from facewright.systems.parse.taxonomy import EASYPORTRAIT_9, EASYPORTRAIT_FP_8, EASYPORTRAIT_PS_2

# of the paper's first version, in millions
COUNTS = {"segformer_b0": 3.72, "segformer_b2": 24.73, "segformer_b5": 81.97, "fpn_resnet50": 28.5}


@pytest.fixture(scope="module")
def model() -> EasyPortrait:
    torch.manual_seed(0)
    return EasyPortrait(EasyPortraitConfig(size=128)).eval()


@pytest.mark.parametrize("network", COUNTS)
def test_sizes_of_the_paper(network) -> None:
    with torch.device("meta"):
        built = EasyPortrait(EasyPortraitConfig(network=network))
    assert sum(p.numel() for p in built.parameters()) / 1e6 == pytest.approx(COUNTS[network], abs=0.01)


SEGFORMER = {
    "backbone.layers.0.0.projection.weight": (32, 3, 7, 7),
    "backbone.layers.0.0.norm.weight": (32,),
    "backbone.layers.0.1.0.norm1.weight": (32,),
    "backbone.layers.0.1.0.attn.attn.in_proj_weight": (96, 32),
    "backbone.layers.0.1.0.attn.attn.in_proj_bias": (96,),
    "backbone.layers.0.1.0.attn.attn.out_proj.weight": (32, 32),
    "backbone.layers.0.1.0.attn.sr.weight": (32, 32, 8, 8),
    "backbone.layers.0.1.0.attn.norm.bias": (32,),
    "backbone.layers.0.1.0.ffn.layers.0.weight": (128, 32, 1, 1),
    "backbone.layers.0.1.0.ffn.layers.1.weight": (128, 1, 3, 3),
    "backbone.layers.0.1.0.ffn.layers.4.weight": (32, 128, 1, 1),
    "backbone.layers.3.2.weight": (256,),
    "decode_head.convs.0.conv.weight": (256, 32, 1, 1),
    "decode_head.convs.0.bn.running_mean": (256,),
    "decode_head.fusion_conv.conv.weight": (256, 1024, 1, 1),
    "decode_head.fusion_conv.bn.weight": (256,),
    "decode_head.conv_seg.weight": (8, 256, 1, 1),
}
FPN = {
    "backbone.stem.0.weight": (32, 3, 3, 3),
    "backbone.stem.1.weight": (32,),
    "backbone.stem.3.weight": (32, 32, 3, 3),
    "backbone.stem.6.weight": (64, 32, 3, 3),
    "backbone.stem.7.running_var": (64,),
    "backbone.layer4.2.conv3.weight": (2048, 512, 1, 1),
    "neck.lateral_convs.0.conv.weight": (256, 256, 1, 1),
    "neck.fpn_convs.3.conv.bias": (256,),
    "decode_head.scale_heads.0.0.conv.weight": (128, 256, 3, 3),
    "decode_head.scale_heads.3.4.bn.bias": (128,),
    "decode_head.conv_seg.bias": (2,),
    "decode_head.conv_seg.weight": (2, 128, 1, 1),
}


@pytest.mark.parametrize(
    ("keys", "config"),
    [(SEGFORMER, EasyPortraitConfig(classes=8)), (FPN, EasyPortraitConfig(network="fpn_resnet50", classes=2))],
)
def test_published_keys_find_their_place(keys, config) -> None:
    state = {"meta": {}, "state_dict": {k: torch.empty(shape, device="meta") for k, shape in keys.items()}}
    assert convert.published_config(state) == config
    with torch.device("meta"):
        own = EasyPortrait(config).state_dict()
    converted = convert.convert_published(state)
    assert len(converted) == len(keys)
    for key, value in converted.items():
        assert own[key].shape == value.shape, key


def test_larger_segformers_are_told_apart() -> None:
    stem = {"backbone.layers.0.0.projection.weight": torch.zeros(64, 3, 7, 7)}
    stem["decode_head.conv_seg.weight"] = torch.zeros(9, 256, 1, 1)
    assert convert.published_config(stem).network == "segformer_b2"
    assert (
        convert.published_config(stem | {"backbone.layers.2.1.39.norm1.weight": torch.zeros(1)}).network
        == "segformer_b5"
    )


def test_foreign_checkpoints_are_refused() -> None:
    last = {"decode_head.conv_seg.weight": torch.zeros(9, 256, 1, 1)}
    with pytest.raises(WeightsError, match="classification layer"):
        convert.import_published({})
    with pytest.raises(WeightsError, match="only SegFormer and FPN"):
        convert.import_published(last)
    partial = last | {"backbone.layers.0.0.projection.weight": torch.zeros(32, 3, 7, 7)}
    with pytest.raises(WeightsError, match="not a complete checkpoint"):
        convert.import_published(partial)
    with pytest.raises(WeightsError, match="not a complete checkpoint"):
        convert.import_published(partial | {"decode_head.other.weight": torch.zeros(1)})


@torch.inference_mode()
def test_reduced_attention_is_torch_attention_over_fewer_keys() -> None:
    torch.manual_seed(0)
    ours = ReducedAttention(16, 2, 2)
    reference = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    reference.in_proj_weight.data, reference.in_proj_bias.data = ours.qkv.weight, ours.qkv.bias.normal_()
    reference.out_proj.load_state_dict(ours.out.state_dict())
    tokens = torch.randn(2, 24, 16)
    picture = tokens.transpose(1, 2).reshape(2, 16, 4, 6)
    fewer = F.conv2d(picture, ours.reduce.weight, ours.reduce.bias, stride=2).flatten(2).transpose(1, 2)
    fewer = F.layer_norm(fewer, (16,), eps=1e-6)
    expected, _ = reference(tokens, fewer, fewer)
    torch.testing.assert_close(ours(tokens, (4, 6)), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_fpn_adds_coarse_to_fine() -> None:
    torch.manual_seed(0)
    built = EasyPortrait(EasyPortraitConfig.fpn()).eval()
    maps = built.net.backbone.feature_maps(torch.randn(1, 3, 64, 64))  # type: ignore[operator, union-attr]
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)]
    assert built(torch.randn(1, 3, 64, 96)).shape == (1, 9, 64, 96)
    assert [len(scale) for scale in built.net.scales] == [1, 2, 4, 6]  # type: ignore[union-attr]


def test_every_weight_of_segformer_learns() -> None:
    torch.manual_seed(0)
    built = EasyPortrait(EasyPortraitConfig(classes=2)).train()
    built(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())


def test_pictures_keep_their_proportions(model: EasyPortrait) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    assert model.fit(photo).shape == (64, 128, 3)
    assert model.parse(photo[None]).shape == (1, 90, 160)
    np.testing.assert_allclose(model.probabilities(photo[None], flip=True).sum(1), 1, atol=1e-5)


def test_low_precision_agrees_with_full(model: EasyPortrait) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    model.precision = "fp32"
    full = model.probabilities(photo)
    with torch.inference_mode():
        exact = model(model.normalise(photo)).softmax(1).numpy()
    np.testing.assert_allclose(full, exact, atol=1e-5)
    model.precision = "bf16"
    assert 0 < np.abs(model.probabilities(photo) - full).mean() < 0.01


def test_both_versions_of_the_data() -> None:
    assert EasyPortrait.preprocess_for(EasyPortraitConfig()).mean == (123.675, 116.28, 103.53)
    assert EasyPortrait.preprocess_for(EasyPortraitConfig(classes=8)).mean[0] == pytest.approx(143.55, abs=0.01)
    assert ep.CLASSES == {9: EASYPORTRAIT_9, 8: EASYPORTRAIT_FP_8, 2: EASYPORTRAIT_PS_2}
    grey = np.full((1, 2, 2, 3), 124, np.uint8)
    with torch.device("cpu"):
        assert EasyPortrait(EasyPortraitConfig()).normalise(grey)[0, 0, 0, 0] == pytest.approx(0.325 / 58.395, abs=1e-4)
    with pytest.raises(UsageError, match="5 classes"):
        EasyPortrait(EasyPortraitConfig(classes=5))
    with pytest.raises(UsageError, match="EasyPortrait takes"):
        EasyPortrait(EasyPortraitConfig())(torch.zeros(3, 64, 64))
