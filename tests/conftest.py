"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from facewright.face import Face, Pose
from facewright.geometry.crop import CropSpec
from facewright.geometry.templates import TEMPLATES
from facewright.processors import single_threaded
from facewright.tasks.card import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from facewright.face import DegradationEstimate
    from facewright.pipelines.restore import RestorePipeline


def pytest_configure() -> None:
    """One thread for each process of the suite, and for those that it starts: workers together use all processors."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if find_spec("torch"):  # `.ci/run` tries further interpreters without it
        single_threaded()


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps the first precision of a process; the next test may train in another."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """The command line and the server set up logging and warnings for their process; the next test starts afresh."""
    loggers = [logging.getLogger(name) for name in ("facewright", "facewright.serve")]
    before = [(log, log.level, log.handlers[:], log.propagate) for log in loggers]
    shown = warnings.showwarning
    yield
    warnings.showwarning = shown
    for log, level, handlers, propagate in before:
        log.setLevel(level)
        log.handlers[:], log.propagate = handlers, propagate


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
    import fill  # type: ignore[import-not-found]

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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the program as the shell would: (exit code, standard output, standard error)."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        from facewright import cli

        monkeypatch.setattr(sys, "argv", ["facewright", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture
def use_pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Let every task that edits or detects run with the networks of a made pipeline."""
    from facewright.pipelines.order import reading_order
    from facewright.runtime.session import Session

    def use(made: Any) -> None:
        def detect(photo: Any, options: Any) -> list[Face]:
            return reading_order(made.detector.detect(photo.rgb()))

        def pipeline(self: Session, task: Any, choice: Any = None) -> Any:
            return detect if getattr(task, "verb", task) == "detect" else made

        monkeypatch.setattr(Session, "pipeline", pipeline)

    return use


def face_at(centre: tuple[float, float], eye_distance: float = 40.0, *, angle: float = 0.0, **fields: Any) -> Face:
    """A face whose five points are FFHQ's template, scaled, turned by `angle` degrees and put at `centre`."""
    template = TEMPLATES["ffhq"] - TEMPLATES["ffhq"].mean(0)
    unit = np.hypot(*(template[1] - template[0]))
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    points = template / unit * eye_distance @ np.array([[c, s], [-s, c]]) + centre
    half = np.array([1.1, 1.4]) * eye_distance
    box = np.concatenate([np.array(centre) - half, np.array(centre) + half])
    values: dict[str, Any] = {"score": 0.9, "pose": Pose(0.0, 0.0, angle)} | fields
    return Face(box=box.astype(np.float32), points5=points.astype(np.float32), **values)


class FakeDetector:
    """Finds the faces it was given, in any photo."""

    slug = "fake-detector"

    def __init__(self, *faces: Face) -> None:
        self.faces, self.calls = list(faces), 0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.calls += 1
        return list(self.faces)


class FakeRestorer:
    """Turns every crop towards its negative, less so the higher the fidelity, and counts what it was asked.

    `ssim` is what it says of inputs, `seen` collects (batch size, fidelity, seed) of every call; `identity` returns the
    input, `fail` is raised instead of restoring.
    """

    slug = "fake-restorer"
    weights_sha256 = "ab" * 32

    def __init__(self, size: int = 96, *, ssim: float = 0.5, identity: bool = False) -> None:
        self.preprocess = Preprocess(CropSpec.aligned(size))
        self.ssim, self.identity = ssim, identity
        self.seen: list[tuple[int, float, int | None]] = []
        self.fail: BaseException | None = None

    def assess(self, crops: np.ndarray) -> list[DegradationEstimate]:
        from facewright.face import DegradationEstimate

        return [DegradationEstimate(1.0, 2.0, 3.0, 90.0, 25.0, self.ssim) for _ in crops]

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        self.seen.append((len(crops), fidelity, seed))
        if self.fail is not None:
            raise self.fail
        if self.identity:
            return crops.copy()
        negative = 255 - crops.astype(np.float32)
        noise = 0 if seed is None else np.random.default_rng(seed).normal(0, 8, crops.shape[1:])
        return np.clip(crops + (1 - 0.5 * fidelity) * (negative - crops) + noise, 0, 255).astype(np.uint8)


def textured(height: int, width: int, *, dtype: Any = np.uint8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A picture with structure at all scales in the middle range of values, (H, W, C)."""
    rng = np.random.default_rng(seed)
    picture = rng.normal(0, 1, (height, width, channels))
    for sigma, gain in ((2, 4), (8, 16), (24, 40)):
        layer = rng.normal(0, 1, (height, width, channels))
        picture += gain * cv2.GaussianBlur(layer, (0, 0), sigma).reshape(picture.shape)
    low, high = picture.min(), picture.max()
    top = np.iinfo(dtype).max
    return np.rint((0.15 + 0.7 * (picture - low) / (high - low)) * top).astype(dtype)


@pytest.fixture(scope="session")
def fakes() -> SimpleNamespace:
    """Fake networks and pictures: `Detector`, `Restorer`, `face_at`, `textured`, and `pipeline(*faces, **restorer)`."""

    def pipeline(*faces: Face, **options: Any) -> RestorePipeline:
        from facewright.pipelines.restore import RestorePipeline  # needs torch

        return RestorePipeline(FakeDetector(*faces), FakeRestorer(**options))

    return SimpleNamespace(
        Detector=FakeDetector, Restorer=FakeRestorer, face_at=face_at, textured=textured, pipeline=pipeline
    )
