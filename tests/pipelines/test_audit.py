"""Audits of recognisers: who is attacked, what is said and written, and an attack that works on an easy network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import facewright.pipelines.audit as audits
from facewright.errors import OutputError, UsageError
from facewright.gallery.photos import recogniser_id
from facewright.gallery.records import Sample
from facewright.gallery.store import Gallery
from facewright.geometry.crop import CropSpec, template_face
from facewright.io.image import read
from facewright.io.provenance import detect_watermark, read_provenance
from facewright.metrics.attacks import Rate
from facewright.pipelines.audit import AuditReport, Inversion, Pace, Watermark, audit, divide
from facewright.systems.attack.adversarial_watermark.network import Hidden, HiddenConfig
from facewright.systems.latents.eigenfaces.network import Eigenfaces, EigenfacesConfig
from facewright.systems.recognise.recogniser import Recogniser
from facewright.tasks.audit import AuditOptions
from facewright.tasks.card import Preprocess
from facewright.tasks.declare import NetworkChoice, tasks

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 64


@dataclass(frozen=True)
class TinyConfig:
    dim: int = 12


class Tiny(Recogniser):
    """What a picture looks like in 2 × 2 parts: a recogniser that is easy to understand, and to attack."""

    slug: ClassVar[str] = "arcface"
    Config: ClassVar[type[TinyConfig]] = TinyConfig
    mirror = False

    def __init__(self, config: TinyConfig | None = None) -> None:
        super().__init__(config)
        last = nn.Linear(12, 12, bias=False)
        nn.init.eye_(last.weight)
        self.backbone = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), last)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(SIDE, "arcface"))


class Finder:
    """Finds one face, as large as the picture, unless the picture is black."""

    def detect(self, image: Any) -> list[Any]:
        return [template_face(image.shape[0], "arcface")] if image.any() else []


class Networks:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.coder = Eigenfaces(EigenfacesConfig(size=SIDE, lightness=8, colour=4, colour_size=8)).eval()
        self.hidden = Hidden(HiddenConfig(SIDE, 4, 4, 1, 1, 1)).eval()
        self.recogniser = Tiny().eval()

    def detector(self, choice: NetworkChoice) -> Finder:
        return Finder()

    def network(self, slug: str, *_: Any) -> Any:
        return {"eigenfaces": self.coder, "adversarial_watermark": self.hidden}.get(slug, self.recogniser)


def portrait(person: int, photo: int) -> Any:
    """Four coloured parts by the person, a little noise by the photo."""
    rng = np.random.default_rng(person)
    parts = rng.integers(40, 216, (2, 2, 3)).repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
    return np.clip(parts + np.random.default_rng((person, photo)).normal(0, 4, parts.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for person in range(40):
        (tmp_path / "people" / f"p{person}").mkdir(parents=True)
        for photo in range(2):
            read(portrait(person, photo)).save(tmp_path / "people" / f"p{person}" / f"{photo}.png")
    read(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "people" / "p0" / "black.png")
    (tmp_path / "people" / "p1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return tmp_path / "people"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "PGD_STEPS", 2)
    monkeypatch.setattr(audits, "DRAWN", 16)
    monkeypatch.setattr(audits, "PER_MINUTE", 10**9)


OPTIONS = AuditOptions(people=10, steps=3, examples=2, watermark="hidden")


@pytest.mark.usefixtures("quick")
def test_an_audit_from_photos_to_files(folder: Path, tmp_path: Path) -> None:
    report = audit(Networks(), NetworkChoice(recogniser="arcface"), folder, OPTIONS)  # type: ignore[arg-type]
    assert report.people == 10
    assert report.attacker_photos == 60  # two of each of the thirty others
    assert set(report.left_out) == {"p0/black.png", "p1/broken.png"}
    assert report.genuine[1e-2].share == 1  # photos of one person differ by noise alone
    assert [row.setting for row in report.inversion] == ["whitebox", "control: without identity", "whitebox"]
    assert report.inversion[-1].defence
    files = report.save(tmp_path / "out")
    assert [file.name for file in files] == ["audit.json", "audit.html", "made-00.png", "made-01.png"]
    written = json.loads(files[0].read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert not any(f"p{person}" in files[1].read_text() for person in range(2, 40))  # no names
    assert detect_watermark(read(files[2]).rgb()).present
    made = read_provenance(files[2])
    assert made is not None
    assert made.action == "made from a template"
    with pytest.raises(OutputError, match="exists"):
        report.save(tmp_path / "out")


@pytest.mark.usefixtures("quick")
def test_equal_seeds_give_equal_audits_and_networks_and_random_state_stay(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    found = []
    for _ in range(2):
        networks = Networks()
        torch.manual_seed(5)
        found.append(audit(networks, NetworkChoice(recogniser="arcface"), folder, OPTIONS).to_dict())  # type: ignore[arg-type]
        assert torch.equal(torch.rand(1), expected)
        assert all(p.requires_grad for net in (networks.recogniser, networks.coder) for p in net.parameters())
    assert found[0] == found[1]


@pytest.mark.usefixtures("quick")
def test_attackers_photos_may_come_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    for person in range(100, 125):
        (tmp_path / "others" / f"p{person}").mkdir(parents=True)
        read(portrait(person, 0)).save(tmp_path / "others" / f"p{person}" / "0.png")
    options = AuditOptions(people=40, steps=1, attacker=str(tmp_path / "others"))
    report = audit(Networks(), NetworkChoice(recogniser="arcface"), folder, options)  # type: ignore[arg-type]
    assert (report.people, report.attacker_photos) == (40, 25)
    assert report.watermark is None  # no network for it was given
    assert report.to_dict()["watermark"] is None
    assert set(report.risk) == {"template inversion"}
    assert any("not tried" in line for line in report.lines())
    assert "Adversarial" not in audits.page(report)


@pytest.mark.usefixtures("quick")
def test_templates_of_a_gallery_leak(folder: Path, tmp_path: Path) -> None:
    networks, place = Networks(), tmp_path / "people.gallery"
    recogniser: Any = networks.recogniser
    recogniser.weights_sha256 = "0" * 64
    attacked = divide([f"p{i // 2}" for i in range(80)], 10, whole=False)
    names = [f"p{row // 2}" for row in attacked.leaked]
    with Gallery.create(place, recogniser_id(recogniser)) as gallery:
        vectors = recogniser.embed(np.stack([portrait(int(name[1:]), 0) for name in names]))
        gallery.enrol([Sample(name, vector) for name, vector in zip(names[:6], vectors)])
    options = AuditOptions(people=10, steps=1, gallery=str(place))
    choice = NetworkChoice(recogniser="arcface")
    assert audit(networks, choice, folder, options).people == 6  # type: ignore[arg-type]
    with Gallery.open(place, None) as gallery:
        gallery.remove(names[:2])
    with pytest.raises(UsageError, match="4 of the people"):
        audit(networks, choice, folder, options)  # type: ignore[arg-type]


def test_too_little_is_refused_with_what_is_needed(folder: Path, tmp_path: Path) -> None:
    networks, choice = Networks(), NetworkChoice(recogniser="arcface")
    with pytest.raises(UsageError, match="too few"):
        audit(networks, choice, folder, AuditOptions(attacker=str(folder)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not a folder"):
        audit(networks, choice, tmp_path / "nothing", OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one folder per person"):
        audit(networks, choice, folder / "p0", OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="different"):
        audit(networks, choice, folder, AuditOptions(proxy="arcface"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no recogniser"):
        audit(networks, NetworkChoice(recogniser="stylegan2"), folder, OPTIONS)  # type: ignore[arg-type]


def test_who_is_attacked_does_not_depend_on_the_order_of_the_photos() -> None:
    people = [f"p{i // 2}" for i in range(20)] + ["alone"]
    sides = divide(people, 4, whole=False)
    attacked = {people[row] for row in sides.leaked}
    assert len(attacked) == 4
    assert [people[row] for row in sides.leaked] == [people[row] for row in sides.other]
    assert not set(sides.leaked) & set(sides.other)
    assert not attacked & {people[row] for row in sides.attacker}
    backwards = divide(people[::-1], 4, whole=False)
    assert {people[::-1][row] for row in backwards.leaked} == attacked
    assert divide(people, 40, whole=True).attacker == ()
    assert len(divide(people, 40, whole=True).leaked) == 10
    assert len(divide(people, 40, whole=False).leaked) == 5  # half of the people are the attacker's


def test_faces_are_made_at_a_pace() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(60, clock=lambda: now[0])
    pace.wait(10, sleep)
    assert slept == []
    pace.wait(1, sleep)
    assert slept == [10]
    now[0] += 100
    pace.wait(1, sleep)
    assert slept == [10]


def report_of(other: int, both: int, same: int = 0) -> AuditReport:
    rates = {1e-2: Rate(10, 10), 1e-3: Rate(8, 10)}
    none_match, some = {fmr: Rate(0, 10) for fmr in rates}, {1e-2: Rate(same, 10), 1e-3: Rate(0, 10)}
    rows = (
        Inversion("whitebox", "a", "a", "a", "", some, {1e-2: Rate(other, 10), 1e-3: Rate(0, 10)}),
        Inversion("control", "a", "a", "a", "", none_match, none_match),
        Inversion("whitebox", "a", "a", "a", "turned", rates, rates),  # what a defence leaves is no risk without it
    )
    ten, none = Rate(10, 10), Rate(0, 10)
    marks = Watermark(4, ten, ten, ten, Rate(both, 10), 0.99, 40.0, none, ten, none)
    limits = {"a": {1e-2: 0.2, 1e-3: 0.4}}
    pictures = np.zeros((0, 8, 8, 3), np.uint8)
    return AuditReport("a", "0" * 64, 10, 50, {}, limits, rates, rows, marks, AuditOptions(), pictures)


@pytest.mark.parametrize(
    ("other", "same", "both", "expected"),
    [
        (0, 0, 10, ("low", "low")),
        (2, 0, 8, ("some", "some")),
        (5, 0, 1, ("high", "high")),
        (1, 6, 10, ("high", "low")),  # the leaked photo counts
    ],
)
def test_the_risk_is_the_worst_undefended_rate(other: int, same: int, both: int, expected: tuple[str, str]) -> None:
    report = report_of(other, both, same)
    assert tuple(report.risk.values()) == expected
    assert f"template inversion: {expected[0]} risk" in report.lines()


def test_a_page_shows_what_it_is_given_as_text() -> None:
    report = report_of(1, 1)
    object.__setattr__(report, "recogniser", "<script>")
    object.__setattr__(report, "thresholds", {"<script>": {1e-3: 0.4}})
    assert "<script>" not in audits.page(report)
    assert "&lt;script&gt;" in audits.page(report)


def test_a_mapping_learns_to_fool_a_recogniser_that_is_easy_to_fool() -> None:
    """On people it never saw: from styles whose templates are known, and further by pixels and identity."""
    from facewright.systems.attack.template_inversion.network import TemplateInversion, TemplateInversionConfig
    from facewright.systems.attack.template_inversion.prior import face_of, paint, prior_of
    from facewright.systems.attack.template_inversion.training import TemplateInversionTraining, fit, regress
    from facewright.systems.latents.eigenfaces.training import fit as fit_eigenfaces

    torch.manual_seed(0)
    recogniser, photos = Tiny().eval(), [portrait(person, 0) for person in range(248)]
    small = np.stack([cv2.resize(photo, (16, 16), interpolation=cv2.INTER_AREA) for photo in photos])
    coder = fit_eigenfaces(iter([small[48:]]), EigenfacesConfig(size=16, lightness=4, colour=8, colour_size=4))
    prior = prior_of(coder)
    spec, face = recogniser.preprocess.crop, face_of(prior)

    def embed(pictures: Any) -> Any:
        return recogniser.embed(np.stack([spec.cut(picture, face).image for picture in pictures]))

    with torch.no_grad():
        styles = prior.real(400, coder.device)
    drawn, templates = paint(prior, styles), embed(small[:48])

    def similarity(model: TemplateInversion) -> float:
        return float((embed(model.reconstruct(templates[40:], coder)) * templates[40:]).sum(1).mean())

    model = TemplateInversion(TemplateInversionConfig.for_prior(prior, 12)).eval()
    untrained = similarity(model)
    regress(model, embed(drawn), styles.numpy(), steps=600)
    near = similarity(model)
    assert untrained < 0.5
    assert near > untrained + 0.3
    training = TemplateInversionTraining(model, coder, recogniser, adversarial=0.0)
    images = small[:40]
    batch = {"image": torch.from_numpy(images), "template": torch.from_numpy(templates[:40])}
    with torch.no_grad():
        before = training.validate(batch)
    fit(training, images, templates[:40], steps=60, batch=16)
    with torch.no_grad():
        after = training.validate(batch)
    assert after["identity"] < before["identity"]


def test_the_command_writes_the_report_and_is_not_offered_over_http(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.cli.commands import app
    from facewright.runtime import session

    seen: list[Any] = []

    def load(_: Any, task: Any, choice: NetworkChoice) -> Any:
        def run(source: Path, options: AuditOptions) -> AuditReport:
            seen.append((source, choice.recogniser, options))
            return report_of(5, 1)

        return run

    monkeypatch.setattr(audits, "load", load)
    session.default_session()
    run = CliRunner().invoke(app, ["audit", str(folder), "--recogniser", "arcface", "-o", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert "template inversion: high risk" in run.output
    assert (tmp_path / "out" / "audit.html").is_file()
    assert seen == [(folder, "arcface", AuditOptions())]
    again = CliRunner().invoke(app, ["audit", str(folder), "-o", str(tmp_path / "out")])
    assert isinstance(again.exception, OutputError)
    assert len(seen) == 1  # refused before the work
    assert not tasks()["audit"].served
