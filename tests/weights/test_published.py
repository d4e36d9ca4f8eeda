"""Importing published checkpoints, and embedding trained weights."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from facewright.errors import OutputError, UsageError, WeightsError
from facewright.systems.detect.mos import MOS, MOSConfig
from facewright.weights import pack, published
from facewright.weights.store import load_file, sha256

if TYPE_CHECKING:
    from pathlib import Path

SMALL = MOSConfig("shufflenetv2", width=0.25, fpn=16, deformable=False, pose_hidden=4)


@pytest.fixture
def importer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if MOS had published checkpoints of a small size, in its own key layout."""

    def convert(state: dict[str, Any]) -> MOS:
        model = MOS(SMALL)
        model.load_state_dict(state)
        return model

    def module(card: Any) -> SimpleNamespace:
        return SimpleNamespace(import_published=convert) if card.slug == "mos" else SimpleNamespace()

    monkeypatch.setattr(published, "_module", module)


def test_imported_folder_loads(importer: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MOS(SMALL)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    folder = published.import_checkpoint("mos", tmp_path / "a.pth", tmp_path / "out")
    loaded = MOS.from_pretrained(folder)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_import_keeps_what_is_in_the_folder(importer: None, tmp_path: Path) -> None:
    torch.save(MOS(SMALL).state_dict(), tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        published.import_checkpoint("mos", tmp_path / "a.pth", tmp_path / "out")
    published.import_checkpoint("mos", tmp_path / "a.pth", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "diary.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="is a file"):
        published.import_checkpoint("mos", tmp_path / "a.pth", tmp_path / "a.pth", overwrite=True)


def test_checkpoint_that_does_not_fit(importer: None, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="is no checkpoint of mos"):
        published.import_checkpoint("mos", tmp_path / "a.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_systems_that_cannot_import_name_those_that_can(importer: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"frgp has no published checkpoints to import; these have: mos$"):
        published.import_checkpoint("frgp", tmp_path / "a.pth", tmp_path / "out")


def test_packing_writes_half_precision_weights_and_their_card_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "__file__", str(tmp_path / "pack.py"))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mos.json").write_text(json.dumps({"slug": "mos", "checkpoints": [{"name": "older"}]}))
    model = MOS(SMALL)
    folder = model.save_pretrained(tmp_path / "model")
    target = pack.pack(folder, "mos", "small", recipe="recipes/x.yaml", trained_on=["LFW"])
    assert target == tmp_path / "files" / "mos-small.safetensors"
    state, _ = load_file(target)
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.bfloat16}
    entry, older = json.loads((tmp_path / "cards" / "mos.json").read_text())["checkpoints"]
    assert older == {"name": "older"}
    assert (entry["sha256"], entry["size_bytes"]) == (sha256(target), target.stat().st_size)
    assert entry["commercial"] is False
    assert entry["config"]["width"] == 0.25

    pack.record_metrics("mos", "small", {"recall": 0.97})
    pack.record_metrics("mos", "small", {"pose": 6.5})
    entry = json.loads((tmp_path / "cards" / "mos.json").read_text())["checkpoints"][0]
    assert entry["metrics"] == {"recall": 0.97, "pose": 6.5}
    pack.pack(folder, "mos", "small", recipe="recipes/x.yaml", trained_on=["LFW"])
    names = [c["name"] for c in json.loads((tmp_path / "cards" / "mos.json").read_text())["checkpoints"]]
    assert names == ["small", "older"]
