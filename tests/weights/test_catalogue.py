"""Published files by name: terms, pins, conversion, what is found again without a network; and the rows themselves."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

from facewright import loading
from facewright.errors import LicenceError, UsageError, WeightsError
from facewright.systems.base import system_class
from facewright.systems.detect.mos.network import MOS, MOSConfig
from facewright.tasks import card as card_module
from facewright.tasks.card import Card, PublishedFile, cards
from facewright.weights import bundle, catalogue, published, store, terms
from facewright.weights.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = MOSConfig("shufflenetv2", width=0.25, fpn=16, deformable=False, pose_hidden=4)
REAL = dict(cards())


def small_file(**content: Any) -> bytes:
    stream = io.BytesIO()
    torch.manual_seed(1)
    torch.save({"state_dict": MOS(SMALL).state_dict()} | content, stream)
    return stream.getvalue()


CONTENT = small_file()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def offer(served: Any, home: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PublishedFile]:
    """Makes MOS a system without weights of its own whose one published file lies on the server."""

    def convert(state: dict[str, Any], **options: Any) -> MOS:
        model = MOS(SMALL)
        model.load_state_dict(state)
        converted.append(options)
        return model

    converted: list[dict[str, Any]] = []

    class Convert:
        KEYS = (r"backbone\.", r"pyramid\.")
        import_published = staticmethod(convert)

    def prepare(**values: Any) -> PublishedFile:
        row = PublishedFile(**({  # type: ignore[arg-type]
            "name": "small", "file": "mos.pth", "licence": "MIT", "free": True, "commercial": True, "by": "somebody",
            "training_data": ("faces",), "container": "torch", "preprocess": REAL["mos"].checkpoints[0].preprocess,
            "urls": (served.address + "/mos.pth",), "sha256": DIGEST, "size_bytes": len(CONTENT),
        } | values))  # fmt: skip
        card = dataclasses.replace(REAL["mos"], checkpoints=(), published=(row,))
        table = {**REAL, "mos": card}
        monkeypatch.setattr(card_module, "cards", lambda: table)
        for module in (catalogue, bundle, published):
            monkeypatch.setattr(module, "cards", lambda: table)
        return row

    monkeypatch.setattr(published, "_converter", lambda card: Convert if card.slug == "mos" else None)
    served.files["/mos.pth"] = CONTENT
    prepare.converted = converted  # type: ignore[attr-defined]
    return prepare


def card_of(slug: str = "mos") -> Card:
    return card_module.get_card(slug)


# --- fetch, check, convert, find again


def test_first_use_fetches_and_converts_and_the_next_needs_no_network(offer: Any, served: Any, home: Path) -> None:
    offer()
    told: list[str] = []
    with terms.terms(tell=told.append):
        model = loading.create("mos", pretrained=True)
    assert model.config == SMALL
    assert not model.training
    assert len(served.log) == 1
    assert any("fetching mos.pth" in line for line in told)
    assert told[-1] == "MOS small by somebody: MIT; commercial use allowed; trained on faces"
    again = loading.create("mos", pretrained="small")
    by_file = loading.create("mos", pretrained="mos.pth")
    assert len(served.log) == 1
    assert len(offer.converted) == 1
    for other in (again, by_file):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert (home / "files" / DIGEST / "mos.pth").read_bytes() == CONTENT


def test_what_the_tensors_cannot_say_is_told_to_the_importer(offer: Any) -> None:
    offer(options={"size": 224})
    loading.create("mos", pretrained=True)
    assert offer.converted == [{"size": 224}]


def test_file_that_does_not_convert_leaves_nothing_half_made(offer: Any, served: Any, home: Path) -> None:
    broken = small_file(state_dict={"a": torch.zeros(1)})
    served.files["/mos.pth"] = broken
    offer(sha256="", size_bytes=0)
    with terms.terms(trust_first_download=True), pytest.raises(WeightsError, match="is not a checkpoint of mos"):
        loading.create("mos", pretrained=True)
    assert not any((home / "converted" / "mos").iterdir())
    assert not (home / "trusted.json").exists()


def test_only_local_files(offer: Any, served: Any) -> None:
    row = offer()
    with pytest.raises(WeightsError, match="is not downloaded yet; run: facewright download mos"):
        system_class("mos").from_pretrained("small", local_files_only=True)
    catalogue.download(card_of(), row)
    system_class("mos").from_pretrained("small", local_files_only=True)


def test_local_file_of_that_name_comes_first(offer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(sha256="0" * 64)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mos.pth").write_bytes(CONTENT)
    assert loading.create("mos", pretrained="mos.pth").config == SMALL


def test_checkpoint_is_read_as_it_is_and_converted_once(offer: Any, tmp_path: Path) -> None:
    offer(sha256="0" * 64)
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    for _ in range(2):
        assert loading.create("mos", pretrained=tmp_path / "mine.pth").config == SMALL
    assert len(offer.converted) == 1


# --- terms


def test_licence_is_accepted_once(offer: Any, served: Any) -> None:
    offer(licence="research only", free=False, commercial=False)
    with pytest.raises(LicenceError, match=r"mos\.pth of mos by somebody is under: research only; .*--accept-licence"):
        loading.create("mos", pretrained=True)
    assert served.log == []
    with terms.terms(accept_licence=True):
        loading.create("mos", pretrained=True)
    loading.create("mos", pretrained=True)
    offer(licence="another licence", free=False, commercial=False)
    with pytest.raises(LicenceError, match="another licence"):
        loading.create("mos", pretrained=True)


@pytest.mark.parametrize("answer", [True, False])
def test_person_is_asked(answer: bool, offer: Any) -> None:
    offer(licence="research only", free=False)
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return answer

    with terms.terms(ask=ask):
        if answer:
            loading.create("mos", pretrained=True)
        else:
            with pytest.raises(LicenceError):
                loading.create("mos", pretrained=True)
    assert len(asked) == 1
    assert "research only" in asked[0]


def test_commercial_use_is_refused(offer: Any, served: Any) -> None:
    offer(commercial=False)
    with pytest.raises(LicenceError, match=r"may not be used commercially \(MIT, trained on faces\)"):
        loading.create("mos", pretrained=True, commercial=True)
    assert served.log == []
    offer(commercial=True)
    loading.create("mos", pretrained=True, commercial=True)


def test_file_without_a_digest_is_trusted_once_and_pinned(offer: Any, served: Any, home: Path) -> None:
    row = offer(sha256="", size_bytes=0, reported_sha256=DIGEST)
    with pytest.raises(WeightsError, match="--trust-first-download"):
        loading.create("mos", pretrained=True)
    assert served.log == []
    told: list[str] = []
    with terms.terms(trust_first_download=True, tell=told.append):
        loading.create("mos", pretrained=True)
    assert f"mos.pth is pinned to SHA-256 {DIGEST}, as one source reports" in told
    assert catalogue.known_digest(card_of(), row) == DIGEST
    loading.create("mos", pretrained=True)
    for folder in ("files", "converted"):
        for path in sorted((home / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    served.files["/mos.pth"] = small_file(epoch=2)
    with pytest.raises(WeightsError, match=f"instead of {DIGEST}"):
        loading.create("mos", pretrained=True)


def test_terms_end_with_their_block() -> None:
    with terms.terms(accept_licence=True):
        with terms.terms(trust_first_download=True) as inner:
            assert inner == Terms(accept_licence=True, trust_first_download=True)
        assert terms.current() == Terms(accept_licence=True)
    assert terms.current() == Terms()


def test_damaged_record_is_forgotten_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{ no json")
    assert terms.read_record(tmp_path / "a.json") == {}
    terms.write_record(tmp_path / "a.json", "b", 1)
    terms.write_record(tmp_path / "a.json", "c", 2)
    assert terms.read_record(tmp_path / "a.json") == {"b": 1, "c": 2}


# --- files fetched by hand


def test_file_only_people_can_fetch(offer: Any, served: Any, tmp_path: Path) -> None:
    row = offer(urls=(), page="https://example.org/drive")
    with pytest.raises(WeightsError, match=r"get it from https://example\.org/drive, then: facewright import mos"):
        loading.create("mos", pretrained=True)
    (tmp_path / "mos.pth").write_bytes(CONTENT)
    _, file = catalogue.adopt(card_of(), tmp_path / "mos.pth")
    assert file == row
    assert loading.create("mos", pretrained=True).config == SMALL
    assert served.log == []


def test_file_is_known_by_its_digest_whatever_its_name(offer: Any, tmp_path: Path) -> None:
    row = offer()
    (tmp_path / "download (3)").write_bytes(CONTENT)
    assert catalogue.adopt(card_of(), tmp_path / "download (3)")[1] == row
    assert catalogue.impostor(card_of(), tmp_path / "download (3)") is None


def test_other_file_of_the_same_name_stays_the_users_own(offer: Any, tmp_path: Path) -> None:
    row = offer()
    (tmp_path / "mos.pth").write_bytes(small_file(epoch=7))
    assert catalogue.adopt(card_of(), tmp_path / "mos.pth")[1] is None
    assert catalogue.impostor(card_of(), tmp_path / "mos.pth") == row
    assert catalogue.local_network(card_of(), row) is None


# --- choice


def test_selection(offer: Any) -> None:
    row = offer()
    assert catalogue.select(["mos"]) == catalogue.select(["mos/small", "mos"]) == [(card_of(), row)]
    assert (card_of(), row) in catalogue.select([], task="detect")
    assert all(file.fetchable for _, file in catalogue.select([], everything=True))
    for names, said in (
        (["mos/large"], "choose from small"),
        (["frgp"], "there are no published weights"),
        ([], "nothing to down"),
    ):
        with pytest.raises(UsageError, match=said):
            catalogue.select(names)
    with pytest.raises(UsageError, match=r"no task 'fly'; there are: .*detect"):
        catalogue.select([], task="fly")


def test_file_name_that_several_bear() -> None:
    with pytest.raises(UsageError, match=r"several files model_299\.pt; say which: swinb-celeba-512"):
        catalogue.find_file(REAL["segface"], "model_299.pt")


# --- the commands


def test_download_command(offer: Any, run: Any, home: Path) -> None:
    offer(licence="research only", free=False, commercial=False)
    code, _, said = run("download", "mos")
    assert code == 2
    assert said.startswith("facewright: mos.pth of mos by somebody is under: research only")
    assert "\n" not in said.strip()
    code, out, said = run("download", "mos", "--accept-licence")
    assert code == 0
    assert out == f"mos/small: {next((home / 'converted' / 'mos').iterdir())}\n"
    assert "MOS small by somebody: research only; no commercial use" in said
    code, out, _ = run("models", "mos")
    assert f"Published small: mos.pth, {len(CONTENT) / 1e6:.1f} MB, research only (no commercial use)" in out
    assert f"SHA-256 {DIGEST}" in out
    assert "ready in " in out


def test_download_goes_on_after_a_failure(offer: Any, run: Any) -> None:
    offer()
    code, out, said = run("download", "mos", "dfdnet", "--accept-licence")
    assert code == 1
    assert out.startswith("mos/small: ")
    assert "failed: dfdnet/dfdnet: latest_net_G.pth of dfdnet cannot be downloaded automatically" in said


def test_models_says_where_a_file_can_be_had(offer: Any, run: Any, served: Any) -> None:
    offer(sha256="")
    out = run("models", "mos")[1]
    assert f"not here; from {served.address}/mos.pth" in out
    assert "no SHA-256 confirmed by two sources" in out


def test_import_recognises_a_file(offer: Any, run: Any, tmp_path: Path) -> None:
    offer()
    (tmp_path / "unknown.bin").write_bytes(CONTENT)
    code, out, said = run("import", tmp_path / "unknown.bin")
    assert code == 0
    assert f"{tmp_path}/unknown.bin: a checkpoint of mos" in said
    assert "it is the published small: --model mos --weights small" in out
    code, out, _ = run("import", tmp_path / "unknown.bin", "-o", tmp_path / "out")
    assert loading.create("mos", pretrained=tmp_path / "out").config == SMALL


def test_import_of_something_unknown_names_what_is_near(offer: Any, run: Any, tmp_path: Path) -> None:
    offer()
    torch.save({"backbone.x": torch.zeros(1)}, tmp_path / "a.pth")
    code, _, said = run("import", tmp_path / "a.pth")
    assert code == 2
    assert "does not belong to any known system; nearest: mos" in said
    assert run("import", tmp_path / "none.pth")[2].strip().endswith(f"no checkpoint at {tmp_path}/none.pth")
    assert "give a checkpoint" in run("import", "a", "b", "c")[2]


def test_import_says_that_a_file_is_not_the_published_one(offer: Any, run: Any, tmp_path: Path) -> None:
    offer()
    (tmp_path / "mos.pth").write_bytes(small_file(epoch=7))
    code, out, said = run("import", "mos", tmp_path / "mos.pth")
    assert code == 0
    assert "is not the published mos.pth: its SHA-256 is another" in said
    assert "it is the published" not in out


def test_bundle_carries_published_files(offer: Any, run: Any, served: Any, tmp_path: Path, monkeypatch: Any) -> None:
    offer(sha256="", size_bytes=0)
    code, out, _ = run("bundle", tmp_path / "b", "mos", "--trust-first-download")
    assert (code, out) == (0, f"{tmp_path}/b: 1 published files\n")
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path / "elsewhere"))
    served.log.clear()
    assert run("bundle", tmp_path / "b", "--install")[1] == "1 files installed\n"
    assert loading.create("mos", pretrained=True).config == SMALL
    assert served.log == []


# --- the rows


ROWS = [pytest.param(card, row, id=f"{card.slug}/{row.name}") for card in REAL.values() for row in card.published]


@pytest.mark.parametrize(("card", "row"), ROWS)
def test_row(card: Card, row: PublishedFile) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", row.name)
    assert sum(other.name == row.name for other in card.published) == 1
    assert row.licence
    assert row.by
    assert row.training_data
    assert row.urls or row.page
    assert all(url.startswith(("https://", "hf://")) for url in row.urls)
    assert not row.commercial or row.free
    if row.sha256:
        assert re.fullmatch(r"[0-9a-f]{64}", row.sha256)
        assert len(set(row.seen)) >= 2  # never pinned by the word of one
    else:
        assert not row.seen
    assert published.can_import(card)


@pytest.mark.parametrize(("card", "row"), ROWS)
def test_rows_say_what_the_network_will_be_fed(card: Card, row: PublishedFile) -> None:
    record = dataclasses.asdict(row.preprocess)
    assert record.keys() == dataclasses.asdict(system_class(card.slug).preprocess_for(_config(card, row))).keys()
    assert row.preprocess == system_class(card.slug).preprocess_for(_config(card, row))


def _config(card: Card, row: PublishedFile) -> Any:
    """The configuration a row's network will have, as far as its input depends on it."""
    cls = system_class(card.slug)
    config = cls.preset(row.preset) if row.preset else cls.Config()
    known = {f.name for f in dataclasses.fields(config)}
    changes = {key: value for key, value in row.options.items() if key in known}
    if card.slug == "sface":
        changes["multiplier"] = 1 / 128
    if card.slug == "stylegan2":
        changes["size"] = 512 if "-512-" in row.name else 1024
    if card.slug == "easyportrait":
        changes["classes"] = 2 if "-ps" in row.name else 8
    return dataclasses.replace(config, **changes)


def test_cards_survive_json() -> None:
    for card in REAL.values():
        assert Card.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_unknown_container_is_refused() -> None:
    with pytest.raises(UsageError, match="container 'tape' is none of torch"):
        dataclasses.replace(REAL["gfpgan"].published[0], container="tape")


def test_resolve_of_a_system_nobody_has_published() -> None:
    bare = dataclasses.replace(REAL["frgp"], checkpoints=())
    with pytest.raises(WeightsError, match="no weights of its own yet, and none that are fetched by themselves"):
        store.resolve(bare, None)
