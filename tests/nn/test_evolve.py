"""IR networks: parity with the SFace and AdaFace versions, the gate, and sizes."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn import evolve
from facewright.nn.inference import folded_copy

TOLERANCE = 1e-4
THIN = (16, 32, 32, 32)


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


@pytest.mark.shared
@torch.no_grad()
def test_sface_ir50_equals_published(parity):
    arrays, state, _ = parity("sface-ir50")
    with torch.device("meta"):
        net = evolve.IRNet(50, tface=False)
    net.load_state_dict(evolve.from_evolve(state), assign=True)
    image = (torch.from_numpy(arrays["in_image"]) - 127.5) * 0.078125
    embedding = net.eval()(image)
    assert deviation(embedding, arrays["out_embedding"]) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_adaface_ir50_equals_published(parity):
    arrays, state, _ = parity("adaface-ir50")
    with torch.device("meta"):
        net = evolve.IRNet(50)
    net.load_state_dict(evolve.from_evolve(state), assign=True)
    embedding = net.eval()(torch.from_numpy(arrays["in_image"]))
    norm = embedding.norm(dim=1, keepdim=True)
    assert deviation(norm, arrays["out_norm"]) < TOLERANCE
    assert deviation(embedding / norm, arrays["out_embedding"]) < TOLERANCE


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        assert parameters(evolve.IRNet(50, tface=False)) == 43_574_976
        assert parameters(evolve.IRNet(50)) == 43_585_600
        plain, gated = evolve.IRNet(50, tface=False), evolve.IRNet(50, tface=False, squeeze=True)
    gates = sum(2 * width * width // 16 * count for width, count in zip((64, 128, 256, 512), (3, 4, 14, 3)))
    assert parameters(gated) - parameters(plain) == gates


@pytest.mark.parametrize("tface", [False, True])
def test_published_names_of_the_gated_network_fit(tface):
    """face.evoLVe numbers the gate, TFace calls it `se_block`."""
    net = evolve.IRNet(18, tface=tface, squeeze=True, widths=THIN, size=16)
    gate = "se_block" if tface else "5"
    state = {}
    for key, value in net.state_dict().items():
        name = key.replace("stem.", "input_layer.").replace("head.", "output_layer.")
        name = name.replace("shortcut.", "shortcut_layer.").replace("residual.", "res_layer.")
        state[name.replace("res_layer.6.fc" if tface else "res_layer.5.fc", f"res_layer.{gate}.fc")] = value
    assert f"body.0.res_layer.{gate}.fc1.weight" in state
    net.load_state_dict(evolve.from_evolve(state))


@torch.no_grad()
def test_form_for_inference_computes_the_same():
    net = evolve.IRNet(18, 16, widths=THIN, size=32).train()
    net(torch.randn(8, 3, 32, 32))  # statistics that matter
    x = torch.randn(2, 3, 32, 32)
    folded = folded_copy(net, torch.float32)
    torch.testing.assert_close(folded(x), net.eval()(x), rtol=1e-4, atol=1e-4)


def test_equal_width_shortcut_takes_every_other_pixel():
    block = evolve.IRBlock(4, 4, 2, middle_norm=True, squeeze=False).eval()
    torch.nn.init.zeros_(block.residual[-1].weight)  # type: ignore[arg-type]
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(block(x), x[..., ::2, ::2])


def test_gate_weighs_channels_by_their_means():
    gate = evolve.SqueezeExcite(16)
    x = torch.randn(2, 16, 5, 5)
    hidden = torch.relu(x.mean((2, 3)) @ gate.fc1.weight[..., 0, 0].T)
    expected = torch.sigmoid(hidden @ gate.fc2.weight[..., 0, 0].T)
    torch.testing.assert_close(gate(x), x * expected[..., None, None])


def test_unknown_depth_and_size_are_refused():
    with pytest.raises(UsageError, match="no IR-51; there are: IR-18"):
        evolve.IRNet(51)
    with pytest.raises(UsageError, match="multiple of 16"):
        evolve.IRNet(18, size=100)


def test_keys_of_another_network_are_refused():
    with pytest.raises(KeyError, match="conv1"):
        evolve.from_evolve({"conv1.weight": torch.zeros(1)})
