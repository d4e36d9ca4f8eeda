"""Importing published checkpoints, and embedding trained weights."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from facewright.errors import OutputError, UnsafeWeightsError, UsageError, WeightsError
from facewright.systems.base import system_class
from facewright.systems.detect.mos.network import MOS, MOSConfig
from facewright.tasks.card import get_card
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

    def module(card: Any) -> SimpleNamespace | None:
        return SimpleNamespace(import_published=convert) if card.slug == "mos" else None

    monkeypatch.setattr(published, "_converter", module)


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
    with pytest.raises(WeightsError, match="is not a checkpoint of mos"):
        published.import_checkpoint("mos", tmp_path / "a.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_systems_that_cannot_import_name_those_that_can(importer: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"frgp has no published checkpoints to import; these have: mos$"):
        published.import_checkpoint("frgp", tmp_path / "a.pth", tmp_path / "out")


def test_packing_writes_half_precision_weights_and_their_card_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "systems" / "detect" / "mos" / "card.json"
    card.parent.mkdir(parents=True)
    monkeypatch.setattr(pack, "card_path", lambda slug: card)
    card.write_text(json.dumps({"slug": "mos", "checkpoints": [{"name": "older"}]}))
    model = MOS(SMALL)
    folder = model.save_pretrained(tmp_path / "model")
    target = pack.pack(folder, "mos", "small", recipe="recipes/x.yaml", trained_on=["LFW"])
    assert target == card.with_name("small.safetensors")
    state, _ = load_file(target)
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.bfloat16}
    entry, older = json.loads(card.read_text())["checkpoints"]
    assert older == {"name": "older"}
    assert (entry["sha256"], entry["size_bytes"]) == (sha256(target), target.stat().st_size)
    assert entry["commercial"] is False
    assert entry["config"]["width"] == 0.25

    assert entry["parameters"] == sum(p.numel() for p in model.parameters())

    pack.pack(folder, "mos", "small", recipe="recipes/x.yaml", trained_on=["LFW"])
    names = [c["name"] for c in json.loads(card.read_text())["checkpoints"]]
    assert names == ["small", "older"]


# --- wrong checkpoints of the restorers that can be imported, tried on the real networks


def zeros(*keys: str) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(1) for key in keys}


WRONG = {
    "gfpgan": zeros("vqvae.decoder.up.4.attn.0.q.weight", "vqvae.quantize.embedding.weight"),
    "restoreformer": zeros("conv_body_first.weight", "stylegan_decoder.constant_input.weight"),
    "restoreformer++": zeros("conv_body_first.weight", "stylegan_decoder.constant_input.weight"),
    "codeformer": zeros("conv_body_first.weight", "stylegan_decoder.constant_input.weight"),
    "dfdnet": zeros("ft_layers.0.linear1.weight"),
}
NEAREST = {
    "gfpgan": "RestoreFormer++",
    "restoreformer": "GFPGAN",
    "restoreformer++": "GFPGAN",
    "codeformer": "GFPGAN",
    "dfdnet": "CodeFormer",
}


@pytest.mark.parametrize("slug", list(WRONG))
def test_checkpoint_of_another_model_is_named(slug: str, tmp_path: Path) -> None:
    torch.save({"state_dict": WRONG[slug]}, tmp_path / "a.pth")
    with torch.device("meta"), pytest.raises(WeightsError) as failure:
        published.import_checkpoint(slug, tmp_path / "a.pth", tmp_path / "out")
    said = str(failure.value)
    assert said.startswith(str(tmp_path / "a.pth"))
    assert f"is closest to {NEAREST[slug]}" in said
    assert re.search(r": \d{3} tensors missing \['", said)
    assert re.search(r"[1-9]\d* unknown \['", said)
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_partial_and_older_checkpoints_of_gfpgan(tmp_path: Path) -> None:
    torch.save(zeros("conv_body_first.weight", "final_conv.bias"), tmp_path / "a.pth")
    with (
        torch.device("meta"),
        pytest.raises(WeightsError, match=r"closest to GFPGAN: \d+ tensors missing .*, 0 unknown \[\], 2 of another"),
    ):
        published.import_checkpoint("gfpgan", tmp_path / "a.pth", tmp_path / "out")
    torch.save(zeros("conv_body_first.0.weight"), tmp_path / "b.pth")
    with (
        torch.device("meta"),
        pytest.raises(WeightsError, match=r"the original form\): \d+ tensors missing"),
    ):
        published.import_checkpoint("gfpgan", tmp_path / "b.pth", tmp_path / "out")


def test_code_is_refused_for_every_restorer(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            import os

            return os.system, ("exit 1",)

    torch.save({"state_dict": Harm()}, tmp_path / "a.pth")
    for slug in WRONG:
        with pytest.raises(UnsafeWeightsError, match="more than tensors"):
            published.import_checkpoint(slug, tmp_path / "a.pth", tmp_path / "out")


def test_plus_plus_is_a_name_of_restoreformer() -> None:
    assert get_card("restoreformer++") is get_card("restoreformer")
    assert system_class("restoreformer++").slug == "restoreformer"
    with pytest.raises(UsageError, match=r"unknown model 'restoreformer\+'"):
        get_card("restoreformer+")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("ft_layers.0.norm1.weight", "encoder.blocks.0.weight"), "CodeFormer"),
        (("generator.blocks.0.weight",), "CodeFormer's auto-encoder"),
        (("stylegan_decoder.style_mlp.2.weight", "final_conv.0.weight"), "GFPGAN 1.0 (the original form)"),
        (("stylegan_decoder.constant_input.weight",), "GFPGAN"),
        (("MSDilate.conv1.0.weight_orig",), "DFDNet"),
        (("style_convs.0.weight",), "a StyleGAN2 of BasicSR"),
        (("synthesis.b4.const",), "a StyleGAN2 of NVIDIA"),
        (("input.input", "style.1.weight"), "a StyleGAN2 of rosinality"),
        (("b4.fc.weight",), "a StyleGAN2 discriminator"),
        (("conv1.weight",), "no network known here"),
    ],
)
def test_networks_are_told_by_their_keys(keys: tuple[str, ...], name: str) -> None:
    assert published.nearest_model(zeros(*keys)) == name
