"""A server with fake networks: every task works, nothing is loaded, a test takes a moment."""

from __future__ import annotations

import io
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.face import (
    ActionUnit,
    AgeEstimate,
    DegradationEstimate,
    FaceActions,
    FaceAttributes,
    FaceQuality,
    Landmarks,
)
from facewright.geometry.crop import CropSpec
from facewright.tasks.card import Preprocess, get_card
from facewright.tasks.forensics import Examination

pytest.importorskip("fastapi", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")
pytest.importorskip("prometheus_client", reason="the extra web is not installed")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Landmarker:
    """Fills every box with points."""

    def locate(self, image: np.ndarray, faces: list[Any], *, mirror: bool = True) -> list[Landmarks]:
        grid = np.stack(np.meshgrid(np.linspace(0.2, 0.8, 17), np.linspace(0.2, 0.8, 4)), -1).reshape(68, 2)
        return [
            Landmarks((f.box[:2] + grid * (f.box[2:] - f.box[:2])).astype(np.float32), np.ones(68, np.float32))
            for f in faces
        ]


class Verifier:
    """Takes everything for a face."""

    def verify(self, image: np.ndarray, faces: list[Any]) -> np.ndarray:
        return np.full(len(faces), 9.0)


class Parser:
    """Skin in the middle of every crop."""

    slug = "segface"
    classes = ("background", "skin", "hair")
    preprocess = Preprocess(CropSpec.aligned(64))

    def parse(self, crops: np.ndarray, *, faces: Any = None) -> np.ndarray:
        return self.probabilities(crops).argmax(1).astype(np.uint8)

    def probabilities(self, crops: np.ndarray, *, faces: Any = None) -> np.ndarray:
        side = crops.shape[1]
        y, x = np.mgrid[:side, :side] / side - 0.5
        disc = (x * x + y * y < 0.16).astype(np.float32)
        return np.repeat(np.stack([1 - disc, disc, 0 * disc])[None], len(crops), 0)


class Recogniser:
    """Embeds by the mean colours of the quarters of a crop."""

    slug = "sface"
    weights_sha256 = None
    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def embed(self, crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), 2, 56, 2, 56, 3).mean((2, 4)).reshape(len(crops), -1) - 127
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


class Rater:
    """Rates every face as average."""

    slug = "vitfiqa"

    def rate(self, photo: np.ndarray, faces: list[Any]) -> list[FaceQuality]:
        return [FaceQuality(0.5, 50.0) for _ in faces]


class Generator:
    """Makes noise."""

    slug = "stylegan2"

    def sample(self, count: int, *, seed: int = 0, truncation: float = 0.7) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


class Teller:
    """Says of every face that it looks 40, smiles, lifts its brows and is live."""

    def estimate(self, photo: np.ndarray, faces: list[Any]) -> list[AgeEstimate]:
        return [AgeEstimate(40.0, 33.0, 48.0) for _ in faces]

    def describe_faces(self, photo: np.ndarray, faces: list[Any]) -> list[FaceAttributes]:
        return [FaceAttributes({"Smiling": 0.9}) for _ in faces]

    def read_actions(self, photo: np.ndarray, faces: list[Any]) -> list[FaceActions]:
        return [FaceActions({"AU1": ActionUnit(2.0, 0.9)}, {"happy": 0.8}) for _ in faces]

    preprocess = Preprocess(CropSpec.aligned(64))

    def live(self, photo: np.ndarray, faces: list[Any]) -> np.ndarray:
        return np.full(len(faces), 0.9)


class Examiner:
    """Finds nothing but real faces."""

    slug = "partspectrum"
    weights_sha256 = None
    preprocess = Preprocess(CropSpec.aligned(64))

    def examine(self, crops: np.ndarray) -> Examination:
        kinds = np.tile([0.9, 0.05, 0.05], (len(crops), 1))
        return Examination.of_kinds(kinds, np.zeros(crops.shape[:3], np.float32))


class Colourist:
    """Gives everything the same hue."""

    slug = "ddcolor"
    weights_sha256 = None

    def colourise(self, image: np.ndarray) -> np.ndarray:
        return np.clip(image.astype(int) + np.array([20, 0, -20]), 0, 255).astype(np.uint8)


class Filler:
    """Draws a grey crop."""

    slug = "facefill"
    weights_sha256 = None
    preprocess = Preprocess(CropSpec.aligned(64))

    def fill(self, crops: np.ndarray, holes: np.ndarray) -> np.ndarray:
        return np.full_like(crops, 128)


class FakeSource:
    """A `Networks` whose networks are fakes; `restorer` and `detector` count and can be held.

    `hold` is an event that restoring waits for; `entered` is set when it does. `fail` is raised instead of restoring.
    """

    def __init__(self, fakes: SimpleNamespace, *faces: Any) -> None:
        self.detector = fakes.Detector(*faces)
        self.detector.slug, self.detector.refiner = "mos", None
        self.restorer = _Restorer(fakes.Restorer())
        finder = SimpleNamespace(find=lambda image: np.zeros(image.shape[:2], np.float32))
        self.by_task = {
            "detect": self.detector,
            "restore": self.restorer,
            "landmarks": Landmarker(),
            "parse": Parser(),
            "recognise": Recogniser(),
            "quality": Rater(),
            "synthesise": Generator(),
            "colourise": Colourist(),
            "inpaint": Filler(),
            "forgery": Examiner(),
        }
        self.others = {"faceverifier": Verifier(), "printscan": finder}
        self.asked: list[str] = []

    def network(self, slug: str, weights: Any = None, device: str = "auto", dtype: str = "auto") -> Any:
        self.asked.append(slug)
        return self.others.get(slug) or self.by_task.setdefault(get_card(slug).task, Teller())


class _Restorer:
    """The suite's fake restorer, of faces of which enough is left."""

    slug = "fake-restorer"
    weights_sha256 = "ab" * 32

    def __init__(self, inner: Any) -> None:
        self.inner, self.preprocess = inner, inner.preprocess
        self.calls = 0
        self.hold: threading.Event | None = None
        self.entered = threading.Event()
        self.fail: BaseException | None = None

    def assess(self, crops: np.ndarray) -> list[DegradationEstimate]:
        return [DegradationEstimate(0.3, 1.0, 1.0, 97.0, 36.0, 0.85) for _ in crops]

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        self.calls += 1
        self.entered.set()
        if self.hold is not None:
            assert self.hold.wait(30)
        if self.fail is not None:
            raise self.fail
        return self.inner.restore(crops, fidelity=fidelity, seed=seed)


@pytest.fixture
def source(fakes: SimpleNamespace) -> FakeSource:
    """Fake networks that find one face in the middle of a photo of 240 × 200."""
    return FakeSource(fakes, fakes.face_at((120, 100), 40))


@pytest.fixture(scope="session")
def photo_bytes(fakes: SimpleNamespace) -> Callable[..., bytes]:
    """A made photo as the bytes of a file."""

    def make(width: int = 240, height: int = 200, format: str = "PNG", seed: int = 0, **options: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(fakes.textured(height, width, seed=seed)).save(file, format, **options)
        return file.getvalue()

    return make


@pytest.fixture
def make_client(tmp_path: Path, source: FakeSource) -> Iterator[Callable[..., Any]]:
    """Start an application and give a client for it; `tokens` and options of the server as keywords."""
    from starlette.testclient import TestClient

    from facewright.serve.app import create_app
    from facewright.serve.settings import ServeOptions
    from facewright.serve.store import Store
    from facewright.serve.tokens import Tokens

    open_clients: list[Any] = []

    def make(folder: str = "state", tokens: dict[str, str] | None = None, forget: bool = False, **values: Any) -> Any:
        options = ServeOptions(**{"state": str(tmp_path / folder), "device": "cpu", "grace": 5.0, **values})
        store = Store(tmp_path / folder, options.disk_bytes)
        from facewright.serve.tokens import _hash

        known = Tokens({name: _hash(token) for name, token in (tokens or {}).items()})
        app = create_app(options, store, tokens=known, source=source, forget=forget)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        client.__enter__()
        open_clients.append(client)
        return client

    yield make
    for client in open_clients:
        if getattr(client, "portal", None) is not None:
            client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: Callable[..., Any]) -> Any:
    """A client of a server with the default options."""
    return make_client()


@pytest.fixture
def live_server(tmp_path: Path, source: FakeSource) -> Iterator[Callable[..., Any]]:
    """Start a server that really listens, in a thread; gives its address (host, port) and its application."""
    from facewright.serve import server as module
    from facewright.serve.app import create_app
    from facewright.serve.settings import ServeOptions
    from facewright.serve.store import Store

    running: list[tuple[Any, threading.Thread]] = []

    def start(**values: Any) -> Any:
        options = ServeOptions(**{"state": str(tmp_path / "live"), "device": "cpu", "port": 0, "grace": 3.0, **values})
        listening = module._listen(options)
        app = create_app(options, Store(tmp_path / "live", options.disk_bytes), source=source)
        uvicorn_server = module._Server(module._config(app, options), app)
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((uvicorn_server, thread))
        eventually(lambda: uvicorn_server.started)
        host, port = listening.getsockname()[:2]
        return SimpleNamespace(host=host, port=port, url=f"http://{host}:{port}", app=app, server=uvicorn_server)

    yield start
    for uvicorn_server, thread in running:
        uvicorn_server.handle_exit(15, None)
        thread.join(20)


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until a condition holds, and return what it gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@contextmanager
def held(source: FakeSource) -> Iterator[None]:
    """Keep the restorer waiting for the length of the block."""
    source.restorer.hold = threading.Event()
    source.restorer.entered.clear()
    try:
        yield
    finally:
        source.restorer.hold.set()
        source.restorer.hold = None
