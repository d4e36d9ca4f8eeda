"""Weights on disk and on the wire: what is written comes back bit for bit, and nothing wrong is ever loaded."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import struct
import threading
import time
import zipfile
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from facewright.errors import LicenceError, OutputError, UnsafeWeightsError, UsageError, WeightsError
from facewright.geometry.crop import CropSpec
from facewright.systems import base
from facewright.systems.base import System
from facewright.tasks.card import Card, Checkpoint, Preprocess, upgraded_record
from facewright.weights import bundle as bundles
from facewright.weights import store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTRACT = Preprocess(CropSpec.aligned(8))


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    shift: float = 0.5
    stages: tuple[int, ...] = (1, 2)


class Toy(System):
    slug: ClassVar[str] = "toy"
    Config: ClassVar[type[Any]] = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(3, self.config.width, 3)
        self.norm = nn.BatchNorm2d(self.config.width)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return replace(CONTRACT, mean=(config.shift, config.shift, config.shift))


def checkpoint(**values: Any) -> Checkpoint:
    known: dict[str, Any] = {
        "name": "one",
        "licence": "research only",
        "commercial": False,
        "training_data": ("LFW",),
        "preprocess": CONTRACT,
        "config": {},
    }
    return Checkpoint(**(known | values))


def card(*checkpoints: Checkpoint) -> Card:
    text: dict[str, Any] = dict.fromkeys(("title", "authors", "url", "summary", "faithful", "bias"), "x")
    return Card(
        slug="toy",
        name="Toy",
        task="restore",
        entry=f"{__name__}:Toy",
        year=2026,
        limits=("a",),
        checkpoints=checkpoints,
        **text,
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(base, "get_card", lambda slug: card())
    return tmp_path / "home"


def trained() -> Toy:
    torch.manual_seed(3)
    model = Toy(ToyConfig(width=5))
    model.norm.running_mean.normal_()
    model.norm.num_batches_tracked += 7
    return model


# --- round trip


def test_round_trip_in_float32_is_exact(tmp_path: Path) -> None:
    model = trained()
    folder = model.save_pretrained(tmp_path / "m")
    for source in (folder, str(folder), folder / "model.safetensors"):
        loaded = Toy.from_pretrained(source)
        assert loaded.config == model.config
        assert not loaded.training
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert loaded.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_round_trip_in_bfloat16_is_the_rounded_value(tmp_path: Path) -> None:
    model = trained()
    folder = model.save_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    stored, _ = store.load_file(folder / "model.safetensors")
    assert stored["conv.weight"].dtype == torch.bfloat16
    assert stored["norm.num_batches_tracked"].dtype == torch.int64
    loaded = Toy.from_pretrained(folder)
    assert loaded.conv.weight.dtype == torch.float32
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.to(stored[key].dtype).to(value.dtype)), key
    assert loaded.norm.num_batches_tracked == 7


def test_header_alone_is_enough(tmp_path: Path) -> None:
    """A single file without its config.json: what embedded weights are."""
    folder = trained().save_pretrained(tmp_path / "m")
    (folder / "config.json").unlink()
    assert Toy.from_pretrained(folder / "model.safetensors").config.width == 5


@pytest.mark.parametrize("length", [0x0280, 0x4B50])
def test_safetensors_are_never_taken_for_pickles(tmp_path: Path, length: int) -> None:
    """A file begins with its header's length, which can look like the first bytes of a pickle or of a zip file."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length)
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header.encode() + struct.pack("<f", 2.5))
    assert store.load_file(path)[0]["a"].item() == 2.5
    assert store.load_published(path)["a"].item() == 2.5


def test_full_disk_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained().save_pretrained(tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        Toy().save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


# --- what is refused


def rewritten(folder: Path, **changes: Any) -> Path:
    """The saved weights with another header."""
    path = folder / "model.safetensors"
    state, meta = store.load_file(path)
    store.save_file(state, path, {k: v for k, v in (meta | changes).items() if v is not None})
    (folder / "config.json").unlink()
    return folder


def test_weights_carry_the_whole_crop(tmp_path: Path) -> None:
    folder = trained().save_pretrained(tmp_path / "m")
    _, meta = store.load_file(folder / "model.safetensors")
    assert CropSpec.from_dict(meta["preprocess"]["crop"]) == CONTRACT.crop
    assert meta == json.loads((folder / "config.json").read_text())


def old_record(record: Preprocess) -> dict[str, Any]:
    """The record as version 0.1.0 wrote it: of the crop only size and template."""
    fields = asdict(record)
    crop = fields.pop("crop")
    return {"size": crop["size"], "template": crop["template"]} | fields


def test_weights_of_the_first_version_are_read(tmp_path: Path) -> None:
    model = trained()
    folder = rewritten(model.save_pretrained(tmp_path / "m"), preprocess=old_record(model.preprocess))
    loaded = Toy.from_pretrained(folder)
    assert loaded.preprocess == model.preprocess
    _, meta = store.load_file(loaded.save_pretrained(tmp_path / "again") / "model.safetensors")
    assert "size" not in meta["preprocess"]
    assert Preprocess.from_dict(meta["preprocess"]) == model.preprocess


@pytest.mark.parametrize(
    "crop",
    [
        CropSpec.whole(),
        CropSpec.whole(1024),
        CropSpec.boxed(112, margin=0.15, level_eyes=True),
        CropSpec.aligned(128, margin=0.1, zoom=1.25, centre=(0.5, 0.62), offset=0.5),
    ],
)
def test_an_old_record_means_the_crop_its_system_always_cut(crop: CropSpec) -> None:
    record = Preprocess(crop, colour="BGR")
    assert Preprocess.from_dict(upgraded_record(old_record(record), crop)) == record
    new = json.loads(json.dumps(asdict(record)))
    assert upgraded_record(new, CropSpec.whole(7)) == new
    other = Preprocess.from_dict(upgraded_record(old_record(record), CropSpec.aligned(64, "arcface")))
    assert (other.crop.size, other.crop.template) == (crop.size, crop.template)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slug": "frgp"}, "holds weights of 'frgp', not of 'toy'"),
        ({"config": {"width": 5, "depth": 3}}, r"unknown entries \['depth'\]"),
        ({"config": {"width": 6}}, "of another shape"),
        ({"config": {"width": "wide"}}, "incomplete or damaged"),
        ({"preprocess": {"size": 9, "template": "ffhq"}}, "trained for another input"),
        ({"preprocess": {"size": 8, "template": "arcface"}}, "trained for another input"),
        ({"preprocess": {"size": 8, "template": "mine"}}, "incomplete or damaged"),
        ({"preprocess": {"bogus": 9}}, "incomplete or damaged"),
        ({"preprocess": {"crop": {"kind": "oval", "size": 8}}}, "incomplete or damaged"),
        ({"preprocess": {"crop": {"kind": "box", "size": 8, "bogus": 1}}}, "incomplete or damaged"),
        ({"preprocess": asdict(Preprocess(CropSpec.aligned(8, zoom=1.25)))}, "trained for another input"),
        ({"preprocess": None}, "incomplete or damaged"),
        ({"config": None}, "does not name its configuration"),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = rewritten(trained().save_pretrained(tmp_path / "m"), **changes)
    with pytest.raises(WeightsError, match=said):
        Toy.from_pretrained(folder)


def test_unreadable_config_beside_plain_weights(tmp_path: Path) -> None:
    folder = rewritten(trained().save_pretrained(tmp_path / "m"), config=None)
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(WeightsError, match="cannot be read"):
        Toy.from_pretrained(folder)


def test_tensors_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    folder = trained().save_pretrained(tmp_path / "m")
    state, meta = store.load_file(folder / "model.safetensors")
    state["extra"] = state.pop("conv.bias")
    store.save_file(state, folder / "model.safetensors", meta)
    with pytest.raises(WeightsError, match=r"1 tensors missing \['conv.bias'\], 1 unknown \['extra'\]"):
        Toy.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = trained().save_pretrained(tmp_path / "m") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        Toy.from_pretrained(path)


def test_damaged_header_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save

    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, {store.META_KEY: "{ not json"}))
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        store.load_file(path)


def test_pickles_are_refused_as_weights(tmp_path: Path) -> None:
    for name, legacy in (("new.pth", True), ("old.pth", False)):
        torch.save(trained().state_dict(), tmp_path / name, _use_new_zipfile_serialization=legacy)
        with pytest.raises(WeightsError, match="convert it first"):
            Toy.from_pretrained(tmp_path / name)


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "no/where.safetensors", "/no/where/at/all"])
def test_sources_that_are_nothing(source: str) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        Toy.from_pretrained(source)


def test_folder_without_weights_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    with pytest.raises(WeightsError, match="no weights at"):
        Toy.from_pretrained("runs/toy")


# --- the card's checkpoints


def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Path:
    path = tmp_path / "toy-one.safetensors"
    store.save_file(trained().state_dict(), path, trained().describe())
    entry = checkpoint(**({"file": path.name, "sha256": store.sha256(path)} | values))
    monkeypatch.setattr(base, "get_card", lambda slug: card(entry))
    monkeypatch.setattr(store, "embedded_path", lambda checkpoint: path)
    return path


def test_default_and_named_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = embedded(tmp_path, monkeypatch)
    for source in (None, "one"):
        assert Toy.from_pretrained(source).weights_sha256 == store.sha256(path)


def test_replaced_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = embedded(tmp_path, monkeypatch)
    Toy.from_pretrained()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsError, match="damaged or was replaced"):
        Toy.from_pretrained()


def test_missing_embedded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded(tmp_path, monkeypatch).unlink()
    with pytest.raises(WeightsError, match="reinstall"):
        Toy.from_pretrained()


def test_system_without_weights_says_what_to_do() -> None:
    with pytest.raises(WeightsError, match="has no weights of its own"):
        Toy.from_pretrained()


def test_commercial_use_needs_a_licence_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = embedded(tmp_path, monkeypatch)
    with pytest.raises(LicenceError, match="research only"):
        Toy.from_pretrained(commercial=True)
    with pytest.raises(LicenceError, match="outside the registry"):
        Toy.from_pretrained(path, commercial=True)
    embedded(tmp_path, monkeypatch, commercial=True)
    Toy.from_pretrained(commercial=True)


def test_card_names_its_checkpoints() -> None:
    with pytest.raises(UsageError, match="there are: one"):
        card(checkpoint()).checkpoint("two")
    with pytest.raises(UsageError, match="unknown fields: colour"):
        Card.from_dict(card().to_dict() | {"colour": "red"})
    assert Card.from_dict(json.loads(json.dumps(card(checkpoint()).to_dict()))) == card(checkpoint())


# --- published checkpoints


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "g_ema", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_published_wrappers_are_unpacked(tmp_path: Path, wrapper: str | None, legacy: bool) -> None:
    state = {"module.conv.weight": torch.ones(2), "module.steps": torch.tensor(3), "note": "text"}
    torch.save({wrapper: state, "epoch": 4} if wrapper else state, tmp_path / "a.pth",
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    loaded = store.load_published(tmp_path / "a.pth")
    assert sorted(loaded) == ["conv.weight", "steps"]
    assert torch.equal(loaded["conv.weight"], torch.ones(2))


def test_the_average_is_preferred(tmp_path: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    assert store.load_published(tmp_path / "a.pth")["a"].item() == 1


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["plain", "zip", "legacy"])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, kind: str) -> None:
    path, sign = tmp_path / "bomb.pth", tmp_path / "exploded"
    content = {"params": {"a": torch.zeros(1)}, "extra": Bomb(sign)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UnsafeWeightsError, match="holds more than tensors"):
        store.load_published(path)
    assert not sign.exists()
    torch.load(path, weights_only=False) if kind != "plain" else pickle.loads(path.read_bytes())
    assert sign.exists()


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04 not a zip", b"\x80\x02garbage", b"\x80", b"", b"text"],
    ids=["zip", "pickle", "1", "0", "t"],
)
def test_unreadable_published_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError):
        store.load_published(tmp_path / "a.pth")


def test_published_files_without_tensors(tmp_path: Path) -> None:
    for content, said in (([1, 2], "state dict"), ({"epoch": 3}, "any tensors")):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=said):
            store.load_published(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no checkpoint at"):
        store.load_published(tmp_path / "missing.pth")


# --- the hub


class Hub:
    """A Hugging Face hub of one repository on this machine."""

    def __init__(self, content: bytes) -> None:
        self.content, self.commit = content, "c" * 40
        self.requests: list[Any] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.reply(b"")

            def do_GET(self) -> None:
                self.reply(hub.content)

            def reply(self, body: bytes) -> None:
                hub.requests.append((self.command, self.path))
                if not self.path.startswith("/someone/toy/resolve/main/toy.safetensors"):
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RepoNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
                self.send_header("X-Repo-Commit", hub.commit)
                self.send_header("Content-Length", str(len(hub.content)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = trained().save_pretrained(tmp_path / "made")
    served = Hub((folder / "model.safetensors").read_bytes())
    point_to(monkeypatch, served.address)
    yield served
    served.server.shutdown()
    served.server.server_close()


def remote(content: bytes, **values: Any) -> Checkpoint:
    digest = hashlib.sha256(content).hexdigest()
    return checkpoint(**({"repo_id": "someone/toy", "filename": "toy.safetensors", "sha256": digest} | values))


def test_download_is_checked_and_kept(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = remote(hub.content)
    monkeypatch.setattr(base, "get_card", lambda slug: card(entry))
    model = Toy.from_pretrained()
    assert torch.equal(model.conv.weight, trained().conv.weight)
    path = store.fetch(entry)
    assert home in path.parents
    hub.requests.clear()
    store.fetch(entry, local_files_only=True)
    assert hub.requests == []


def test_wrong_download_is_refused_and_fetched_anew(hub: Hub) -> None:
    right, entry = hub.content, remote(hub.content)
    hub.content = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(WeightsError, match="SHA-256"):
        store.fetch(entry)
    hub.content = right
    hub.commit = "d" * 40
    assert store.sha256(store.fetch(entry)) == entry.sha256


@pytest.mark.parametrize("values", [{"repo_id": "someone/else"}, {"repo_id": "not a/valid/id"}])
def test_unknown_repository_is_one_line(hub: Hub, values: dict[str, str]) -> None:
    with pytest.raises(WeightsError, match="cannot fetch") as caught:
        store.fetch(remote(hub.content, **values))
    assert "\n" not in str(caught.value)


def test_without_a_network_the_bundle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_to(monkeypatch, f"http://127.0.0.1:{port}")
    with pytest.raises(WeightsError, match="install a bundle made by 'facewright bundle'") as caught:
        store.fetch(remote(b"x"))
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="cannot fetch someone/other from the hub") as caught:
        store.resolve(card(), "someone/other")
    assert "\n" not in str(caught.value)


# --- bundles


def test_bundle_carries_downloads_to_a_machine_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = remote(hub.content)
    monkeypatch.setattr(bundles, "cards", lambda: {"toy": card(entry)})
    bundle = bundles.make_bundle([], tmp_path / "weights.bundle")
    with pytest.raises(OutputError):
        bundles.make_bundle([], bundle)
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(WeightsError):
        store.fetch(entry, local_files_only=True)
    assert bundles.install_bundle(bundle) == 1
    hub.requests.clear()
    assert store.fetch(entry).read_bytes() == hub.content
    assert hub.requests == []


def write_bundle(path: Path, index: Any, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(bundles.INDEX, index if isinstance(index, bytes) else json.dumps(index))
        for name, data in members.items():
            archive.writestr(name, data)
    return path


DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    ("index", "members"),
    [
        ([{"name": "a", "sha256": DIGEST}], {DIGEST: b"changed"}),
        ([{"name": "a", "sha256": DIGEST}], {}),
        ([{"name": "a", "sha256": "../../escape"}], {"../../escape": b"x"}),
        ([{"name": "a"}], {}),
        ({"a": 1}, {}),
        (b"{ not json", {}),
    ],
    ids=["changed", "absent", "escaping", "no hash", "no list", "no json"],
)
def test_damaged_bundles_install_nothing(tmp_path: Path, home: Path, index: Any, members: dict[str, bytes]) -> None:
    with pytest.raises(WeightsError):
        bundles.install_bundle(write_bundle(tmp_path / "b", index, members))
    assert not list((home / "bundle").glob("*"))


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"text")
    for path in (tmp_path / "b", tmp_path / "missing"):
        with pytest.raises(WeightsError, match="not a facewright bundle"):
            bundles.install_bundle(path)


def test_normalise_follows_the_contract() -> None:
    import numpy as np

    crops = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    model = Toy()
    expected = torch.from_numpy(crops).permute(0, 3, 1, 2).double() / 255
    got: Tensor = model.normalise(crops)
    assert torch.allclose(got.double(), (expected - 0.5) / 0.5, atol=1e-6)

    class Swapped(Toy):
        @classmethod
        def preprocess_for(cls, config: Any) -> Preprocess:
            return Preprocess(
                CropSpec.whole(), colour="BGR", scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 4.0)
            )

    got = Swapped().normalise(crops)
    assert got[1, 0, 3, 5].item() == int(crops[1, 3, 5, 2]) - 104
    assert got[1, 2, 3, 5].item() == (int(crops[1, 3, 5, 0]) - 123) / 4
