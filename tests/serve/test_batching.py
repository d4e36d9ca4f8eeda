"""Faces of several requests in one call, and networks that stop when they are told to."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facewright.serve.batching import MOST, Batcher
from facewright.serve.networks import ServedNetworks, watched_by, work_methods


class Doubler:
    """Doubles crops, and remembers how many came at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0) -> np.ndarray:
        self.sizes.append(len(crops))
        if crops.max() == 99:
            raise ValueError("99")
        return crops * 2


def crops(value: int, count: int = 1, side: int = 4) -> np.ndarray:
    return np.full((count, side, side, 3), value, np.uint8)


def together(batcher: Batcher, function: Any, calls: list[tuple[np.ndarray, dict[str, Any]]]) -> list[Any]:
    """The results of calls made at the same time, exceptions among them."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int, given: np.ndarray, arguments: dict[str, Any]) -> None:
        barrier.wait(10)
        try:
            results[number] = batcher("key", function, given, **arguments)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n, *call)) for n, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_calls_at_the_same_time_are_one_and_everybody_gets_their_own() -> None:
    network = Doubler()
    batcher = Batcher(5.0, lambda: 3)
    results = together(batcher, network.restore, [(crops(1), {}), (crops(2, 2), {}), (crops(3), {})])
    assert network.sizes == [4]
    assert [(len(r), int(r.max())) for r in results] == [(1, 2), (2, 4), (1, 6)]


def test_different_arguments_and_sizes_are_never_mixed() -> None:
    network = Doubler()
    calls = [(crops(1), {"fidelity": 0.5}), (crops(2), {"fidelity": 1.0}), (crops(3, side=8), {"fidelity": 1.0})]
    results = together(Batcher(0.05, lambda: 3), network.restore, calls)
    assert network.sizes == [1, 1, 1]
    assert [r.shape[1] for r in results] == [4, 4, 8]


def test_a_lonely_call_does_not_wait() -> None:
    network = Doubler()
    start = time.monotonic()
    Batcher(30.0, lambda: 1)("key", network.restore, crops(1))
    assert time.monotonic() - start < 10


def test_no_more_go_together_than_a_network_takes() -> None:
    network = Doubler()
    together(Batcher(2.0, lambda: 3), network.restore, [(crops(1, 5), {})] * 3)
    assert max(network.sizes) <= MOST
    assert sum(network.sizes) == 15


def test_an_error_reaches_all_whom_it_concerns() -> None:
    network = Doubler()
    batcher = Batcher(5.0, lambda: 2)
    results = together(batcher, network.restore, [(crops(99), {}), (crops(1), {})])
    assert [type(r) for r in results] == [ValueError, ValueError]
    assert batcher("key", network.restore, crops(1)).max() == 2


def test_arguments_of_the_crops_go_along_with_them() -> None:
    seen: list[list[int]] = []

    def restore(given: np.ndarray, *, estimates: list[int] | None = None) -> np.ndarray:
        seen.append(list(estimates or ()))
        return given + np.array(estimates, np.uint8)[:, None, None, None]

    calls = [(crops(10, 2), {"estimates": [1, 2]}), (crops(20), {"estimates": [3]})]
    results = together(Batcher(5.0, lambda: 2), restore, calls)
    assert sorted(seen[0]) == [1, 2, 3]
    assert len(seen) == 1
    assert [r[:, 0, 0, 0].tolist() for r in results] == [[11, 12], [23]]
    assert together(Batcher(0.05, lambda: 2), lambda c, **a: c, [(crops(1), {"other": {}})])[0].max() == 1


# --- networks


def test_what_protocols_ask_for_is_watched() -> None:
    assert {"detect", "restore", "embed", "parse", "rate", "sample", "enlarge", "locate"} <= work_methods()
    assert not {"network", "pipeline", "preprocess"} & work_methods()


class Model:
    """A network as the session gives it: attributes, a work method, another method."""

    def __init__(self) -> None:
        self.slug, self.weight = "model", [1.0]

    def detect(self, image: np.ndarray) -> list[int]:
        return [1, 2]

    def other(self) -> str:
        return "other"


class Watch:
    def __init__(self, most: int = 9) -> None:
        self.stages: list[str] = []
        self.most = most

    def before(self, stage: str) -> None:
        if len(self.stages) == self.most:
            raise KeyboardInterrupt
        self.stages.append(stage)

    def found(self, faces: int) -> None:
        self.stages.append(f"{faces} faces")


def test_a_served_network_is_the_same_but_for_its_work() -> None:
    model = Model()
    session = ServedNetworks(SimpleNamespace(network=lambda *arguments: model))
    served = session.network("model")
    assert served is session.network("model")
    assert served is not model
    assert isinstance(served, Model)
    assert served.weight is model.weight
    assert served.other() == "other"
    assert "detect" not in vars(model)  # nothing is written to the network itself
    watch = Watch()
    with watched_by(watch):
        assert served.detect(np.zeros((4, 4, 3), np.uint8)) == [1, 2]
    assert watch.stages == ["looking for faces", "2 faces"]
    assert served.detect(np.zeros((4, 4, 3), np.uint8)) == [1, 2]  # nobody watches


def test_watches_belong_to_their_thread() -> None:
    model = Model()
    served = ServedNetworks(SimpleNamespace(network=lambda *arguments: model)).network("model")
    watch = Watch(most=0)
    with watched_by(watch):
        thread = threading.Thread(target=served.detect, args=(np.zeros((4, 4, 3), np.uint8),))
        thread.start()
        thread.join(10)
        assert watch.stages == []
        with pytest.raises(KeyboardInterrupt):
            served.detect(np.zeros((4, 4, 3), np.uint8))


def test_a_torch_network_keeps_its_weights(tmp_path: Any) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def embed(self, given: np.ndarray) -> np.ndarray:
            return self.layer(torch.from_numpy(given)).detach().numpy()

    model = Net().eval()
    served = ServedNetworks(SimpleNamespace(network=lambda *arguments: model)).network("net")
    given = np.ones((2, 3), np.float32)
    assert np.array_equal(served.embed(given), model.embed(given))
    assert served.layer is model.layer
    assert not served.training
