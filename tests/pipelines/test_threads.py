"""Networks are shared between threads: what four threads get at once is what one gets after the other, bit for bit.

The networks are fresh, so that the first calls, in which their copies for inference are made, meet as well.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import facewright as fw
from facewright.io.image import read
from facewright.io.video import Frame
from facewright.nn.inference import folded_copy
from facewright.pipelines.analyse import Analyser
from facewright.pipelines.identity import IdentityPipeline
from facewright.pipelines.portrait import retouch
from facewright.pipelines.quality import QualityRater
from facewright.pipelines.restore import RestoreEdit, RestorePipeline
from facewright.pipelines.video import VideoEditor
from facewright.systems.synthesise.stylegan2.network import StyleGAN2, StyleGAN2Config
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.io.image import Photo

THREADS = 4


@pytest.fixture(autouse=True)
def one_thread_each() -> Any:
    """Sums in the same order, however many threads there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photos(astronaut: np.ndarray) -> list[Photo]:
    small = np.asarray(cv2.resize(astronaut, (230, 230), interpolation=cv2.INTER_AREA), np.uint8)
    return [read(small), read(np.ascontiguousarray(small[:, ::-1]))]


def jobs(photos: list[Photo]) -> dict[str, Callable[[], Any]]:
    """A call of every pipeline of every task for every photo, over networks nobody has used yet."""
    net: Any = {
        s: fw.create(s, pretrained=True) for s in ("mos", "facewarp", "segface", "distilledface", "vitfiqa", "frgp")
    }
    torch.manual_seed(0)
    makers: Any = StyleGAN2(StyleGAN2Config(size=32, narrow=0.125, style_dim=16, mapping_layers=2)).eval()
    gate: Any = fw.create("landmark_forest", pretrained=True)
    analyse = Analyser(net["mos"], net["facewarp"], net["segface"])
    identity = IdentityPipeline(net["mos"], net["distilledface"], quality=QualityRater(net["vitfiqa"], net["frgp"]))
    restore = RestorePipeline(net["mos"], net["frgp"], net["distilledface"], parser=net["segface"])
    found: dict[str, Callable[[], Any]] = {}
    for number, photo in enumerate(photos):
        rgb = photo.rgb()
        found |= {
            f"detect {number}": lambda rgb=rgb: [f.to_dict() for f in net["mos"].detect(rgb)],  # type: ignore[misc]
            f"landmarks, parse {number}": lambda photo=photo: [  # type: ignore[misc]
                (a.to_dict(), a.mask.labels.tobytes()) for a in analyse(photo)
            ],
            f"embed, quality {number}": lambda photo=photo: [  # type: ignore[misc]
                (e.vector.tobytes(), e.quality) for e in identity.embed(photo)
            ],
            f"gate {number}": lambda rgb=rgb: gate.rate(rgb, net["mos"].detect(rgb)),  # type: ignore[misc]
            f"portrait {number}": lambda photo=photo, rgb=rgb: retouch(  # type: ignore[misc]
                photo, net["mos"].detect(rgb), net["segface"], background="blur", skin=0.5, teeth=0.5
            ).image.pixels.tobytes(),
        }
        for seed in (None, 1, 2):
            found[f"restore {number} {seed}"] = lambda photo=photo, seed=seed: restored(restore, photo, seed)  # type: ignore[misc]
    for seed in (None, 1, 2):
        found[f"synthesise {seed}"] = lambda seed=seed: makers.sample(1, seed=seed or 0).tobytes()  # type: ignore[misc]
        found[f"video {seed}"] = lambda seed=seed: frames_restored(net, photos[0].rgb(), seed)  # type: ignore[misc]
    return found


def restored(pipeline: RestorePipeline, photo: Photo, seed: int | None) -> Any:
    result = pipeline(photo, RestoreOptions(force=True, seed=seed))
    return result.image.pixels.tobytes(), [f.to_dict() for f in result.faces]


def frames_restored(net: Any, rgb: np.ndarray, seed: int | None) -> bytes:
    pipeline = RestorePipeline(net["mos"], net["frgp"], net["distilledface"], parser=net["segface"])
    options = RestoreOptions(force=True, seed=seed)
    stage = VideoEditor(pipeline.editor, RestoreEdit(pipeline, options, by_size=True), options)
    return b"".join(out.tobytes() for out in stage([Frame(i, i / 25, rgb) for i in range(2)]))


def test_four_threads_get_what_one_gets(photos: list[Photo]) -> None:
    """All jobs of the first run start on fresh networks; every thread takes the next one there is."""
    work = jobs(photos)
    ready = threading.Barrier(THREADS)

    def run(names: list[str]) -> list[tuple[str, Any]]:
        ready.wait()
        return [(name, work[name]()) for name in names]

    order = [str(name) for name in np.random.default_rng(0).permutation(list(work))]
    with ThreadPoolExecutor(THREADS) as pool:
        shares = [pool.submit(run, order[i::THREADS]) for i in range(THREADS)]
        together = dict(pair for share in shares for pair in share.result())
    alone = {name: job() for name, job in work.items()}
    assert sorted(together) == sorted(alone)
    assert [name for name in alone if together[name] != alone[name]] == []
    for name in ("restore 0", "video"):
        assert len({str(alone[f"{name} {seed}"]) for seed in (None, 1, 2)}) == 3, f"a seed changes nothing of {name}"


def test_networks_run_while_another_is_folded() -> None:
    """torch.fx replaces methods of all modules while it traces; no other thread may notice, and nothing may stay."""
    layers = [layer for _ in range(20) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())]
    network, other = nn.Sequential(*layers).eval(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    picture = torch.linspace(0, 1, 192).view(1, 3, 8, 8)
    methods = nn.Module.__call__, nn.Module.__getattr__
    with torch.inference_mode():
        expected = other(picture)
    over = threading.Event()

    def use() -> int:
        runs = 0
        while not over.is_set():
            with torch.inference_mode():
                assert torch.equal(other(picture), expected)
            runs += 1
        return runs

    def fold() -> list[torch.Tensor]:
        folded = [folded_copy(network, torch.float32) for _ in range(8)]
        with torch.inference_mode():
            return [each(picture) for each in folded]

    with ThreadPoolExecutor(THREADS) as pool:
        users = [pool.submit(use) for _ in range(2)]
        folders = [pool.submit(fold) for _ in range(2)]
        try:
            results = [result for folder in folders for result in folder.result()]
        finally:
            over.set()
        assert all(user.result() > 0 for user in users)
    with torch.inference_mode():
        wanted = network(picture)
    assert all(torch.allclose(result, wanted, atol=1e-5) for result in results)
    assert (nn.Module.__call__, nn.Module.__getattr__) == methods
