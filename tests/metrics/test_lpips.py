from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from facewright.errors import UsageError, WeightsError
from facewright.metrics.lpips import LPIPS

if TYPE_CHECKING:
    from pathlib import Path

# torchvision's numbering: (index, in, out, kernel, stride, padding), "M" a max pool, "*" a compared activation.
ALEX = [(0, 3, 64, 11, 4, 2), "*", "M", (3, 64, 192, 5, 1, 2), "*", "M", (6, 192, 384, 3, 1, 1), "*"]
ALEX += [(8, 384, 256, 3, 1, 1), "*", (10, 256, 256, 3, 1, 1), "*"]
VGG = [(0, 3, 64, 3, 1, 1), (2, 64, 64, 3, 1, 1), "*", "M", (5, 64, 128, 3, 1, 1), (7, 128, 128, 3, 1, 1), "*", "M"]
VGG += [(10, 128, 256, 3, 1, 1), (12, 256, 256, 3, 1, 1), (14, 256, 256, 3, 1, 1), "*", "M"]
VGG += [(17, 256, 512, 3, 1, 1), (19, 512, 512, 3, 1, 1), (21, 512, 512, 3, 1, 1), "*", "M"]
VGG += [(24, 512, 512, 3, 1, 1), (26, 512, 512, 3, 1, 1), (28, 512, 512, 3, 1, 1), "*"]
PLAN = {"alex": (ALEX, 3, (64, 192, 384, 256, 256)), "vgg": (VGG, 2, (64, 128, 256, 512, 512))}


def random_weights(network: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    plan, _, widths = PLAN[network]
    rng = torch.Generator().manual_seed(3)
    backbone = {"classifier.6.bias": torch.zeros(7)}
    for step in plan:  # type: ignore[attr-defined]
        if isinstance(step, tuple):
            index, cin, cout, kernel, _, _ = step
            gain = (2 / (cin * kernel**2)) ** 0.5
            backbone[f"features.{index}.weight"] = torch.randn(cout, cin, kernel, kernel, generator=rng) * gain
            backbone[f"features.{index}.bias"] = torch.randn(cout, generator=rng) * 0.1
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=rng) for i, c in enumerate(widths)}
    return backbone, linear


def by_hand(network: str, backbone: dict[str, Tensor], linear: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The published definition, step by step."""
    plan, pool, _ = PLAN[network]
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = (a - shift) / scale, (b - shift) / scale
    total, stage = torch.zeros(len(a)), 0
    for step in plan:  # type: ignore[attr-defined]
        if step == "M":
            x, y = F.max_pool2d(x, pool, 2), F.max_pool2d(y, pool, 2)
        elif step == "*":
            difference = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)) ** 2
            total = total + F.conv2d(difference, linear[f"lin{stage}.model.1.weight"]).mean((1, 2, 3))
            stage += 1
        else:
            index, _, _, _, stride, padding = step
            w, bias = backbone[f"features.{index}.weight"], backbone[f"features.{index}.bias"]
            x, y = (F.relu(F.conv2d(v, w, bias, stride, padding)) for v in (x, y))
    assert stage == 5
    return total


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_equals_the_definition_with_weights_from_files(network: str, tmp_path: Path) -> None:
    backbone, linear = random_weights(network)
    torch.save(backbone, tmp_path / "backbone.pth")
    save_file(linear, str(tmp_path / "linear.safetensors"))
    model = LPIPS.from_files(network, backbone=tmp_path / "backbone.pth", linear=tmp_path / "linear.safetensors")  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 64, 72, generator=rng) * 2 - 1 for _ in range(2))
    found = model(a, b)
    torch.testing.assert_close(found, by_hand(network, backbone, linear, a, b), rtol=1e-4, atol=1e-6)
    assert (found > 0.01).all()
    assert (model(a, a) == 0).all()
    torch.testing.assert_close(model(b, a), found)
    assert (model(a, a + 0.05 * (b - a)) < model(a, a + 0.5 * (b - a))).all()


def test_gradient_reaches_the_picture_only() -> None:
    model = LPIPS("alex")
    a = torch.rand(1, 3, 64, 64, requires_grad=True)
    model(a, torch.rand(1, 3, 64, 64)).sum().backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())


def test_weights_in_the_cache_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"ImageNet backbone.*model zoo.*alexnet\.pth"):
        LPIPS.from_files("alex")
    backbone, linear = random_weights("alex")
    (tmp_path / "lpips").mkdir()
    torch.save(backbone, tmp_path / "lpips" / "alexnet.pth")
    with pytest.raises(WeightsError, match=r"linear layers.*PerceptualSimilarity.*lpips_alex\.pth"):
        LPIPS.from_files("alex")
    torch.save(linear, tmp_path / "lpips" / "lpips_alex.pth")
    loaded = LPIPS.from_files("alex")
    torch.testing.assert_close(loaded.features[0].weight.data, backbone["features.0.weight"])


def test_weights_of_another_network_are_refused() -> None:
    backbone, linear = random_weights("alex")
    with pytest.raises(WeightsError, match=r"features\.0\.weight has shape"):
        LPIPS("vgg").load_backbone(backbone)
    with pytest.raises(WeightsError, match="is missing"):
        LPIPS("alex").load_backbone({})
    with pytest.raises(WeightsError, match="lin1 has shape"):
        LPIPS("vgg").load_linear(linear)
    with pytest.raises(UsageError, match="alex, vgg"):
        LPIPS("squeeze")  # type: ignore[arg-type]
