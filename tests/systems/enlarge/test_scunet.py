"""SCUNet: published keys and shapes, windows and their shift, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import WeightsError
from facewright.systems.enlarge.scunet.convert import import_published
from facewright.systems.enlarge.scunet.network import SCUNet, SCUNetConfig, WindowAttention
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 71_982_841


def block(key: str, width: int) -> SHAPES:
    half = width // 2
    found: SHAPES = {f"{key}.trans_block.msa.relative_position_params": (half // 32, 15, 15)}
    for name, shape in (("conv1_1", (width, width, 1, 1)), ("conv1_2", (width, width, 1, 1)),
                        ("trans_block.msa.embedding_layer", (3 * half, half)), ("trans_block.msa.linear", (half, half)),
                        ("trans_block.ln1", (half,)), ("trans_block.ln2", (half,)),
                        ("trans_block.mlp.0", (4 * half, half)), ("trans_block.mlp.2", (half, 4 * half))):  # fmt: skip
        found |= {f"{key}.{name}.weight": shape, f"{key}.{name}.bias": shape[:1]}
    return found | {f"{key}.conv_block.{i}.weight": (half, half, 3, 3) for i in (0, 2)}


def published_shapes() -> SHAPES:
    """The layout of cszn/SCUNet with four blocks a stage, written out from its layer table."""
    found: SHAPES = {"m_head.0.weight": (64, 3, 3, 3), "m_tail.0.weight": (3, 64, 3, 3)}
    for level, width in enumerate((64, 128, 256), 1):
        for number in range(4):
            found |= block(f"m_down{level}.{number}", width) | block(f"m_up{level}.{number + 1}", width)
        found |= {
            f"m_down{level}.4.weight": (2 * width, width, 2, 2),
            f"m_up{level}.0.weight": (2 * width, width, 2, 2),
        }
    for number in range(4):
        found |= block(f"m_body.{number}", 512)
    return found


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        assert import_published(state).config == SCUNetConfig()
    assert recognise_tensors(state).systems == ("scunet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 400 * len(state)
    del state["m_body.1.conv_block.2.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['body\.1\.convolve\.2\.weight'\]"):
        import_published(state)


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_stays_within_its_window(shifted: bool) -> None:
    """A pixel is felt in its window of 8; windows moved by 4 are cut at the border and do not wrap round."""
    torch.manual_seed(0)
    attend = WindowAttention(8, 4, shifted=shifted).eval()
    x = torch.randn(1, 16, 24, 8)
    for row, column in ((0, 0), (5, 9), (15, 23), (3, 20), (12, 2)):
        y = x.clone()
        y[0, row, column] += 5
        felt = ((attend(y) - attend(x)).abs().amax(-1) > 1e-6)[0]
        window = torch.zeros(16, 24, dtype=torch.bool)
        shift = 4 if shifted else 0
        top, left = (row + shift) // 8 * 8 - shift, (column + shift) // 8 * 8 - shift
        window[max(top, 0) : top + 8, max(left, 0) : left + 8] = True
        assert torch.equal(felt, window)


def test_attention_by_the_formula() -> None:
    """One window against softmax(q·k/√d + bias by distance)·v, pixel by pixel."""
    torch.manual_seed(0)
    attend = WindowAttention(8, 4, shifted=False)
    x = torch.randn(1, 8, 8, 8)
    q, k, v = attend.qkv(x.view(64, 8)).view(64, 3, 2, 4).unbind(1)
    expected = torch.empty(64, 2, 4)
    for head in range(2):
        for a in range(64):
            scores = torch.stack([
                q[a, head] @ k[b, head] / 2 + attend.bias[head, a // 8 - b // 8 + 7, a % 8 - b % 8 + 7]
                for b in range(64)
            ])  # fmt: skip
            expected[a, head] = scores.softmax(0) @ v[:, head]
    assert torch.allclose(attend(x).view(64, 8), attend.out(expected.view(64, 8)), atol=1e-5)


def test_sides_of_any_length() -> None:
    torch.manual_seed(0)
    model = SCUNet(SCUNetConfig.compact()).eval()
    image = np.random.default_rng(0).integers(0, 256, (37, 71, 3), dtype=np.uint8)
    assert model.enlarge(image).shape == image.shape
