"""Ray: two nodes on this machine, workers and nodes that die, and memory that does not grow."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from tests.batch.toy import BRIGHTNESS, BrightnessOptions

from facewright.batch.cluster import ClusterError
from facewright.batch.run import Machines, manifest_of, run
from facewright.tasks.declare import NetworkChoice

if TYPE_CHECKING:
    from collections.abc import Iterator

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray's cluster for tests is not installed")

ROOT = Path(__file__).parents[2]
MACHINES = Machines(workers=2, photos=4, store_mb=80)
pytestmark = pytest.mark.timeout(900)  # starting Ray takes half a minute on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a further node, a processor each, to which this process is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    made.add_node(num_cpus=1, object_store_memory=80_000_000)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (8, 6), (5 * i, 5 * i, 5 * i)).save(folder / f"{i:02d}.png")
    (folder / "99.jpg").write_bytes(b"nothing")
    return folder


def check(out: Path) -> None:
    """Everything is there once, and nothing else."""
    outcomes = list(manifest_of(str(out)).done())
    assert sorted(o.key for o in outcomes) == [*(f"{i:02d}.png" for i in range(40)), "99.jpg"]
    assert [o.key for o in outcomes if o.error] == ["99.jpg"]
    for i in range(40):
        assert json.loads((out / f"{i:02d}.png.json").read_text())["faces"] == [{"mean": 5.0 * i}]
    notes = out / ".facewright" / "batch"
    assert not list((notes / "staged").iterdir())
    assert not (notes / "attempts").exists()


def test_two_nodes_do_what_one_process_does(cluster: Any, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(BRIGHTNESS, str(album), str(out), BrightnessOptions(), NetworkChoice(), machines=MACHINES)
    assert (summary.total, summary.done, summary.failed) == (41, 40, 1)
    check(out)
    again = run(BRIGHTNESS, str(album), str(out), BrightnessOptions(), NetworkChoice(), machines=MACHINES)
    assert (again.total, again.before) == (0, 41)


def test_killed_workers_lose_nothing_and_double_nothing(cluster: Any, album: Path, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.mkdir()
    for name in ("03.png", "21.png", "38.png"):
        (trouble / name).write_bytes(b"x")
    out, options = tmp_path / "out", BrightnessOptions(trouble=str(trouble))
    summary = run(BRIGHTNESS, str(album), str(out), options, NetworkChoice(), machines=MACHINES)
    assert [(trouble / name).read_bytes() for name in ("03.png", "21.png", "38.png")] == [b""] * 3
    assert (summary.done, summary.failed) == (40, 1)
    check(out)


def test_a_photo_that_kills_every_worker_is_given_up(cluster: Any, album: Path, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.mkdir()
    (trouble / "07.png").write_bytes(b"x" * 9)
    out, options = tmp_path / "out", BrightnessOptions(trouble=str(trouble))
    summary = run(BRIGHTNESS, str(album), str(out), options, NetworkChoice(), machines=MACHINES)
    assert (summary.done, summary.failed) == (39, 2)
    (given_up,) = [o for o in manifest_of(str(out)).done() if o.key == "07.png"]
    assert "it ended its worker 3 times" in (given_up.error or "")


def test_a_lost_node_loses_nothing(cluster: Any, album: Path, tmp_path: Path) -> None:
    extra = cluster.add_node(num_cpus=2, object_store_memory=80_000_000)
    out, options = tmp_path / "out", BrightnessOptions(pause=0.3)
    started = threading.Event()

    def lose() -> None:
        started.wait(300)
        cluster.remove_node(extra, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    machines = Machines(workers=3, photos=2, store_mb=80)
    try:
        summary = run(
            BRIGHTNESS, str(album), str(out), options, NetworkChoice(), machines=machines,
            on_outcome=lambda outcome, total: started.set(),
        )  # fmt: skip
    finally:
        started.set()
        thread.join()
    assert (summary.done, summary.failed) == (40, 1)
    check(out)


def test_a_cluster_that_is_not_there_is_one_line(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**values: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"no Ray cluster at 10\.0\.0\.1:6379: nobody answers"):
        run(
            BRIGHTNESS, str(album), str(tmp_path / "o"), BrightnessOptions(), NetworkChoice(),
            machines=Machines(workers=1, address="10.0.0.1:6379"),
        )  # fmt: skip
    assert time.monotonic() - began < 60
