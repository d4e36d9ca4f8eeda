"""Forms for inference: made once, made again for other weights, shared by threads, gone with their network."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from facewright.nn.inference import AutocastCopy, InferenceForms, converted, plain_copy

if TYPE_CHECKING:
    from collections.abc import Callable


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1))).eval()


class Counter:
    def __init__(self, network: nn.Module) -> None:
        self.made = 0
        self.network = weakref.ref(network)

    def __call__(self, dtype: torch.dtype) -> nn.Module:
        self.made += 1
        network = self.network()
        assert network is not None
        return plain_copy(network, dtype)


def step(network: nn.Sequential) -> None:
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.rand(1, 3, 8, 8)).square().sum().backward()
    optimiser.step()


def replace_weight(network: nn.Sequential) -> None:
    network[2][1].weight = nn.Parameter(torch.ones(2, 4, 1, 1))  # type: ignore[index]


def replace_module(network: nn.Sequential) -> None:
    network[2][1] = nn.Conv2d(4, 2, 1)  # type: ignore[operator]


def running_statistics(network: nn.Sequential) -> None:
    network.train()(torch.rand(2, 3, 8, 8))
    network.eval()


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "training": step,
    "loading": lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}),
    "loading a part": lambda network: network[2].load_state_dict(
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1)).state_dict()
    ),
    "converting": lambda network: network.half().float(),
    "writing": lambda network: network[0].bias.detach().add_(1),  # type: ignore[operator]
    "new data": lambda network: setattr(network[0].bias, "data", torch.ones(4)),
    "a new weight": replace_weight,
    "a new module": replace_module,
    "batch statistics": running_statistics,
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_make_another_form(change: str) -> None:
    network, forms = small(), InferenceForms()
    make = Counter(network)
    before = forms.get(network, torch.float32, make)
    assert forms.get(network, torch.float32, make) is before
    CHANGES[change](network)
    after = forms.get(network, torch.float32, make)
    assert make.made == 2
    x = torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(after(x), network(x), rtol=1e-4, atol=1e-5)
        assert not torch.equal(after(x), before(x))


def test_types_have_a_form_each() -> None:
    network, forms = small(), InferenceForms()
    make = Counter(network)
    wide, narrow = (forms.get(network, dtype, make) for dtype in (torch.float32, torch.bfloat16))
    assert next(narrow.parameters()).dtype == torch.bfloat16
    assert forms.get(network, torch.float32, make) is wide
    assert make.made == 2


def test_threads_share_one_form() -> None:
    network, forms = small(), InferenceForms()
    make, together = Counter(network), threading.Barrier(8)

    def ask(_: int) -> nn.Module:
        together.wait()
        return forms.get(network, torch.float32, make)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert make.made == 1
    assert all(form is found[0] for form in found)


def test_form_goes_with_its_network_and_copies_start_without() -> None:
    network, forms = small(), InferenceForms()
    form = weakref.ref(forms.get(network, torch.float32, Counter(network)))
    twin = copy.deepcopy(network)
    make = Counter(twin)
    assert forms.get(twin, torch.float32, make) is not form()
    assert make.made == 1
    del network
    gc.collect()
    assert form() is None


def test_form_made_in_inference_mode_works_outside() -> None:
    network, forms = small(), InferenceForms()
    with torch.inference_mode():
        form = forms.get(network, torch.float32, Counter(network))
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    form(x).sum().backward()
    assert x.grad is not None


def test_named_tensors_keep_their_precision() -> None:
    class Places(nn.Module):
        full_precision = ("steps", "scale")

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.arange(600.0) / 7)
            self.scale, self.gain = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))

    original = Places()
    twin = converted(copy.deepcopy(original), torch.bfloat16)
    assert torch.equal(twin.steps, original.steps)  # type: ignore[arg-type]
    assert torch.equal(twin.scale, original.scale)
    assert twin.gain.dtype == torch.bfloat16
    assert sorted(twin.state_dict()) == sorted(original.state_dict())


def test_autocast_copy_computes_in_the_type_and_is_a_copy() -> None:
    network = small()
    form = AutocastCopy(network, torch.bfloat16)
    x = torch.rand(1, 3, 8, 8)
    answer = form(x)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), network(x), rtol=0.02, atol=0.02)
    assert network[0].weight.requires_grad
    assert AutocastCopy(network, torch.float32)(x).dtype == torch.float32
