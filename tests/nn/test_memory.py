"""Unused memory is given back once the process has grown, and not more often."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from facewright.nn import memory

pytestmark = pytest.mark.skipif(memory._trim_function() is None, reason="this C library gives nothing back")


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_only_growth_counts(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    calls: list[Any] = []
    held = [100]
    monkeypatch.setattr(memory, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(memory, "_trim_function", lambda: calls.append)
    trimmer = memory.Trimmer(growth=10, share=share)
    assert trimmer()  # what loading left behind
    for size, expected in ((105, False), (110, False), (90, False), (101, True), (105, False)):
        held[0] = size
        assert trimmer() == expected
    assert calls == [0, 0]


def test_a_large_process_may_grow_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [1000]
    monkeypatch.setattr(memory, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(memory, "_trim_function", lambda: lambda pad: None)
    trimmer = memory.Trimmer(growth=10, share=0.25)
    assert trimmer()
    for size, expected in ((1250, False), (1251, True)):
        held[0] = size
        assert trimmer() == expected


def test_other_libraries_and_other_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmer = memory.Trimmer(growth=0)
    with trimmer._lock:
        assert not trimmer()
    monkeypatch.setattr(memory, "_trim_function", lambda: None)
    assert not trimmer()


SIZES = """
import sys
import numpy as np
import torch
import facewright as fw
from facewright.nn.memory import resident_bytes
from facewright.systems.detect.mos.network import MOS, MOSConfig
torch.manual_seed(0)
model = MOS(MOSConfig("shufflenetv2", width=0.25, fpn=16, pose_hidden=8, deformable=False)).eval()
rng = np.random.default_rng(0)
held = 0
for _ in range(50):
    height, width = rng.integers(300, 900, 2) if sys.argv[1] == "many" else (600, 600)
    model.detect(np.zeros((height, width, 3), np.uint8), threshold=0.9)
    held = max(held, resident_bytes())
print(held)
"""


def test_pictures_of_many_sizes_need_the_memory_of_one() -> None:
    peak = {}
    for sizes in ("one", "many"):
        run = subprocess.run([sys.executable, "-c", SIZES, sizes], capture_output=True, text=True, check=True)
        peak[sizes] = int(run.stdout)
    assert peak["many"] <= 1.5 * peak["one"]  # it may grow by a quarter, and by what a picture needs
