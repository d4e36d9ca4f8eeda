"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with `data/` (labelled real faces) and `parity/` (reference vectors); skips the test when absent."""
    for candidate in (os.environ.get("FACEWRIGHT_SHARED"), Path(__file__).parents[2] / "shared"):
        if candidate and (Path(candidate) / "parity").is_dir():
            return Path(candidate).resolve()
    pytest.skip("the shared folder with parity vectors and real faces is not here (set FACEWRIGHT_SHARED)")


@pytest.fixture(scope="session")
def parity(shared_dir: Path):
    """A function that loads one parity file: (arrays, published state dict as tensors, notes)."""
    import torch

    sys.path.insert(0, str(shared_dir / "parity"))
    import fill

    def load(name: str):
        arrays, manifest, notes = fill.load(str(shared_dir / "parity" / f"{name}.npz"))
        state = fill.fill_state_dict(manifest, notes["gain"])
        state |= {k[5:]: v for k, v in arrays.items() if k.startswith("keep_")}
        return arrays, {k: torch.from_numpy(np.asarray(v)) for k, v in state.items()}, notes

    return load


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """scikit-image's public-domain portrait of Eileen Collins, (512, 512, 3) uint8 RGB."""
    from skimage import data

    return data.astronaut()
