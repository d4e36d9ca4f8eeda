"""The scratch detector of old photos: published keys and shapes, low pass, threshold, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.damage.bopbtl.convert import import_published
from facewright.systems.damage.bopbtl.network import BOPBTL, BOPBTLConfig, Halve
from facewright.weights.published import recognise_tensors
from facewright.weights.store import load_published

SHAPES = dict[str, tuple[int, ...]]


def normed(key: str, number: int, c_in: int, c_out: int) -> SHAPES:
    """A convolution and the norm behind it, which is numbered after it."""
    conv, norm = f"{key}.{number}", f"{key}.{number + 1}"
    found: SHAPES = {f"{conv}.weight": (c_out, c_in, 3, 3), f"{conv}.bias": (c_out,), f"{norm}.num_batches_tracked": ()}
    return found | {f"{norm}.{name}": (c_out,) for name in ("weight", "bias", "running_mean", "running_var")}


def published_shapes() -> SHAPES:
    """The layout of microsoft/Bringing-Old-Photos-Back-to-Life, written out from its layer table."""
    found: SHAPES = {"first.1.weight": (64, 1, 7, 7), "first.1.bias": (64,)}
    widths = [64, 128, 256, 512, 1024]
    for level, (a, b) in enumerate(zip(widths, widths[1:])):
        found |= normed(f"down_sample.{level}", 1, a, a) | {f"down_sample.{level}.4.filt": (a, 1, 3, 3)}
        found |= normed(f"down_path.{level}.block", 1, a, b) | normed(f"down_path.{level}.block", 5, b, b)
    for level, (a, b) in enumerate(zip(widths[::-1], widths[-2::-1])):
        found |= {f"up_path.{level}.up.2.weight": (b, a, 3, 3), f"up_path.{level}.up.2.bias": (b,)}
        block = f"up_path.{level}.conv_block.block"
        found |= normed(block, 1, 2 * b, b) | normed(block, 5, b, b)
    return found | {"last.1.weight": (1, 64, 3, 3), "last.1.bias": (1,)}


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == BOPBTLConfig()
    assert recognise_tensors(state).systems == ("bopbtl",)
    del state["up_path.1.up.2.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['ups\.1\.up\.weight'\]"):
        import_published(state)


def test_its_wrapper_is_opened(tmp_path) -> None:
    """The published file also holds the state of its optimiser."""
    torch.save({"model_state": {"module.first.1.bias": torch.ones(2)}, "optimizer_state": {}}, tmp_path / "a.pt")
    assert list(load_published(tmp_path / "a.pt")) == ["first.1.bias"]


def test_halving_is_a_low_pass() -> None:
    """A checkerboard, the finest pattern there is, becomes its mean; what is even stays."""
    rows = torch.arange(8)
    board = ((rows[:, None] + rows) % 2).float().expand(1, 2, 8, 8)
    assert torch.allclose(Halve()(board), torch.full((1, 2, 4, 4), 0.5))
    x = torch.randn(1, 3, 10, 12)
    taps = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    expected = torch.stack([F.conv2d(padded[:, i : i + 1], taps[None, None], stride=2)[:, 0] for i in range(3)], 1)
    torch.testing.assert_close(Halve()(x), expected)


@pytest.fixture
def tiny() -> BOPBTL:
    torch.manual_seed(0)
    return BOPBTL(BOPBTLConfig(width=4, depth=2)).eval()


@torch.inference_mode()
def test_only_lightness_counts(tiny: BOPBTL) -> None:
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    grey = (0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2])[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(tiny(image), tiny(grey))


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (33, 50), (64, 1), (40, 24)])
def test_any_size_is_answered(tiny: BOPBTL, shape: tuple[int, int]) -> None:
    found = tiny.find(np.full((*shape, 3), 90, np.uint8))
    assert found.shape == shape
    assert ((found >= 0) & (found <= 1)).all()


@torch.inference_mode()
def test_one_half_is_the_published_threshold(tiny: BOPBTL) -> None:
    """The published program takes a pixel from a probability of 0.4; a finder of damage answers 0.5 there."""
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    tiny.out.weight *= 300
    tiny.out.bias -= tiny(tiny.normalise(image[None])).mean()
    share = torch.sigmoid(tiny(tiny.normalise(image[None]))[0, 0]).numpy()
    assert np.array_equal(tiny.find(image) >= 0.5, share >= 0.4)
    assert ((share > 0.4) & (share < 0.5)).any()


def test_tiles_agree_with_the_whole(tiny: BOPBTL, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    whole = tiny.find(image)
    monkeypatch.setattr(BOPBTL, "tile", 160)
    np.testing.assert_allclose(tiny.find(image), whole, atol=1e-4)


def test_grey_tensors_are_refused(tiny: BOPBTL) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        tiny(torch.zeros(1, 1, 12, 16))
