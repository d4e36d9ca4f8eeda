"""Files with the exact keys, shapes, types and wrappers of published ones, made from parameter names.

The key lists are those of the published networks' parity vectors. Recognising looks at names and shapes only; from
there to a restored photo the whole way is gone with GFPGAN and CodeFormer in full size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import TYPE_CHECKING, Any

import pytest
import torch

from facewright.tasks import card as card_module
from facewright.tasks.card import cards
from facewright.weights import catalogue, published
from facewright.weights.published import recognise_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SYSTEM_OF = {
    "gfpgan-v1-clean": "gfpgan",
    "codeformer": "codeformer",
    "restoreformer": "restoreformer",
    "restoreformer-v1": "restoreformer",
    "restoreformer-rohqd": "restoreformer",
    "dfdnet": "dfdnet",
    "mos": "mos",
    "mos-s": "mos",
    "rtnet": "rtnet",
    "rtnet-resnet50-deeplab": "rtnet",
    "segface-swin-b": "segface",
    "segface-mobilenet": "segface",
    "segface-lapa": "segface",
    "vitfiqa": "vitfiqa",
    "vitfiqa-crfiqa-mode": "vitfiqa",
    "iresnet18": "arcface",
    "iresnet50": "arcface",
    "mobilefacenet-insightface": "arcface",
    "adaface-ir50": "adaface",
    "sface-ir50": "sface",
    "sface-mobilefacenet": "sface",
    "stylegan2": "stylegan2",
    "stylegan2-clean": "stylegan2",
}


@pytest.fixture
def shapes(shared_dir: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """The tensors of a published network without their values."""

    def read(name: str) -> dict[str, torch.Tensor]:
        import json

        import numpy as np

        with np.load(shared_dir / "parity" / f"{name}.npz", allow_pickle=False) as archive:
            manifest = json.loads(str(archive["manifest"]))
        return {
            key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
            for key, entry in manifest.items()
        }

    return read


@pytest.mark.shared
@pytest.mark.parametrize("name", SYSTEM_OF)
def test_published_network_is_recognised(name: str, shapes: Any) -> None:
    assert recognise_tensors(shapes(name)).systems == (SYSTEM_OF[name],)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "slug", "prefix"),
    [
        ("restoreformer", "restoreformer", "vqvae."),
        ("adaface-ir50", "adaface", "model."),
        ("adaface-ir50", "adaface", "net."),
        ("iresnet50", "magface", "features.module."),
    ],
)
def test_prefixes_of_published_files_are_known(name: str, slug: str, prefix: str, shapes: Any) -> None:
    state = {prefix + key: value for key, value in shapes(name).items()}
    assert recognise_tensors(state).systems == (slug,)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["codeformer-vq", "idiffface-unet", "wav2lip", "stylegan2-discriminator"])
def test_other_networks_are_not_taken_for_ours(name: str, shapes: Any) -> None:
    found = recognise_tensors(shapes(name))
    assert found.systems == ()
    assert "codeformer" in found.near or name != "codeformer-vq"


@pytest.mark.shared
def test_incomplete_file_is_only_near(shapes: Any) -> None:
    state = shapes("gfpgan-v1-clean")
    del state["final_conv.weight"]
    found = recognise_tensors(state)
    assert found.systems == ()
    assert found.near[0] == "gfpgan"


# --- from a bare machine to a restored photo


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(("slug", "vector"), [("gfpgan", "gfpgan-v1-clean"), ("codeformer", "codeformer")])
def test_two_commands_from_a_clone_to_a_restored_photo(
    slug: str,
    vector: str,
    parity: Any,
    served: Any,
    home: Path,
    tmp_path: Path,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`pip install -e .`, then this; the second photo needs no network.

    The weights are random, so that the pinned digest of the real file is replaced by that of the made one.
    """
    from PIL import Image
    from skimage import data

    from facewright.runtime import session

    _, state, _ = parity(vector)
    stream = io.BytesIO()
    torch.save({"params_ema": state}, stream)
    content = stream.getvalue()
    card = cards()[slug]
    row = dataclasses.replace(card.published[0], sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    table = {**cards(), slug: dataclasses.replace(card, published=(row,))}
    for module in (card_module, catalogue, published):
        monkeypatch.setattr(module, "cards", lambda: table)
    monkeypatch.setenv("FACEWRIGHT_MIRROR", served.address)
    path = row.urls[0].removeprefix("https:/")
    served.files[path] = content
    served.plan[path] = ["503", "cut"]
    Image.fromarray(data.astronaut()).save(tmp_path / "old.jpg", quality=60)

    def restore(target: str, *more: str) -> str:
        session.default_session.cache_clear()
        code, _, said = run("restore", tmp_path / "old.jpg", "-o", tmp_path / target, "--model", slug, "--force", *more)
        assert code == 0 or "--accept-licence" in said
        return str(said)

    assert "to accept it, add --accept-licence once" in restore("new.png")
    assert served.log == []
    said = restore("new.png", "--accept-licence")
    assert f"fetching {row.file}" in said
    assert f"converting {row.file} once" in said
    assert row.licence in said
    assert [entry[3] for entry in served.log] == [503, 200, 206]
    served.files.clear()
    restore("again.png")
    first, again = (Image.open(tmp_path / name).tobytes() for name in ("new.png", "again.png"))
    assert first == again
    assert first != Image.open(tmp_path / "old.jpg").convert("RGB").tobytes()
