"""FaceViT: parity of the trunk, token masking, stochastic depth, sizes."""

from __future__ import annotations

import pytest
import torch

from facewright.nn import face_vit
from facewright.nn.face_vit import DropPath, FaceViT


def small(**options) -> FaceViT:
    torch.manual_seed(0)
    return FaceViT(16, **({"width": 32, "depth": 3, "heads": 4, "size": 36} | options))


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


@pytest.mark.shared
@torch.no_grad()
def test_trunk_with_a_prefix_token_equals_published(parity):
    """The network recorded under `vitfiqa` is insightface's ViT-S with one token before those of the patches."""
    arrays, state, _ = parity("vitfiqa")
    with torch.device("meta"):
        net = FaceViT(512, prefix=1)
    prefix = state.pop("qs_token")
    trunk = {key: value for key, value in state.items() if not key.startswith("head_qs.")}
    net.load_state_dict(face_vit.from_insightface(trunk), assign=True)
    net.eval()
    tokens = net.tokens(torch.from_numpy(arrays["in_image"]), prefix.expand(2, -1, -1))
    hidden = net.trunk(tokens)
    assert deviation(hidden[:, ::4, ::5], arrays["out_feat_norm"]) < 1e-4
    assert deviation(net.head(hidden[:, 1:].flatten(1)), arrays["out_embedding"]) < 1e-4


@pytest.mark.parametrize(("options", "millions"), [({"width": 256}, 19.1), ({}, 76.0), ({"depth": 24}, 113.8)])
def test_parameter_counts_are_the_published_ones(options, millions):
    with torch.device("meta"):
        net = FaceViT(512, **options)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_last_rows_and_columns_are_unused():
    with torch.no_grad():
        net = small(size=40).eval()
        x = torch.randn(1, 3, 40, 40)
        changed = x.clone()
        changed[..., 36:, :] = 9
        changed[..., 36:] = 9
        assert torch.equal(net(x), net(changed))
        assert net.tokens(x).shape == (1, 16, 32)


def test_masked_tokens_come_back_as_the_mask_token_in_their_places():
    net = small(mask_ratio=0.25)
    net.blocks, net.norm = torch.nn.ModuleList(), torch.nn.Identity()  # type: ignore[assignment]
    tokens = torch.randn(5, 16, 32)
    out = net.train().trunk(tokens)
    free = (out == net.mask_token).all(-1)
    assert free.sum(1).tolist() == [4] * 5
    assert torch.equal(out[~free], tokens[~free])
    assert len({tuple(row.tolist()) for row in free}) > 1, "every sample draws its own tokens"
    assert torch.equal(net.eval().trunk(tokens), tokens)


def test_blocks_do_not_see_masked_tokens():
    net = small(mask_ratio=0.5)
    seen = []
    net.blocks[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    net.train()(torch.randn(4, 3, 36, 36))
    net.eval()(torch.randn(4, 3, 36, 36))
    assert seen == [8, 16]


def test_mask_token_learns():
    net = small().train()
    net(torch.randn(4, 3, 36, 36)).square().sum().backward()
    assert net.mask_token.grad is not None
    assert net.mask_token.grad.abs().sum() > 0


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    out = drop(torch.ones(20_000, 2, 3))
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert torch.equal(out.amax((1, 2)), out.amin((1, 2)))
    assert float(out.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(torch.ones(4)), torch.ones(4))


def test_drop_path_grows_with_depth():
    assert [block.drop_path.rate for block in small(drop_path=0.2).blocks] == [0.0, 0.1, 0.2]  # type: ignore[union-attr]


def test_order_of_patches_matters_only_through_positions():
    net = small().eval()
    torch.nn.init.zeros_(net.positions)
    x = torch.randn(1, 3, 36, 36)
    order = torch.randperm(16)
    with torch.no_grad():
        tokens = net.tokens(x)
        torch.testing.assert_close(net.trunk(tokens[:, order]), net.trunk(tokens)[:, order])
