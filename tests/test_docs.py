"""README, guides and generated pages agree with the program: options, names, links, examples."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

import facewright
from facewright.cli.commands import app
from facewright.io.image import save_rgb
from facewright.tasks import card as card_module

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
GUIDES = [ROOT / "README.md", *sorted((DOCS / "guides").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MEMBER = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options `facewright COMMAND --help` names, by command."""
    runner = CliRunner()
    found: dict[str, Any] = {}
    for command in COMMANDS:
        found[command] = set()
        for part in ([command], *([command, child] for child in getattr(COMMANDS[command], "commands", {}))):
            result = runner.invoke(app, [*part, "--help"], env={"COLUMNS": "200"})
            assert result.exit_code == 0, result.output
            found[command] |= set(OPTION.findall(result.output))
    return found


def fences(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def calls(page: Path) -> list[tuple[str, str]]:
    """(command, rest of the line) of every `facewright …` in code."""
    lines = [line for body in fences(page, "bash") for line in body.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    parts = (part for line in (*lines, *spans) for part in line.split("&&"))
    return [
        (m[1], m[2])
        for part in parts
        for m in [re.search(r"(?<!import )\bfacewright (?:-vv? )?([a-z][a-z-]*)(.*)", part)]
        if m
    ]


def slugs(page: Path) -> set[str]:
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


# --- generated pages --------------------------------------------------------------------------------------------------


def test_generated_pages_are_up_to_date(make_docs):
    assert make_docs.stale() == [], "run: python tools/make_docs.py"


def test_generating_is_idempotent_and_removes_what_no_card_asks_for(make_docs, tmp_path):
    assert "models/frgp.md" in make_docs.stale(tmp_path)
    make_docs.write(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.md")}
    make_docs.write(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.md")} == before
    (tmp_path / "models" / "gone.md").write_text("a system that is gone", encoding="utf-8")
    assert make_docs.stale(tmp_path) == ["models/gone.md"]
    make_docs.write(tmp_path)
    assert not (tmp_path / "models" / "gone.md").exists()


def test_a_model_page_says_what_a_user_must_know(make_docs):
    preprocess = {"crop": {"kind": "template", "size": 256, "template": "ffhq"}}
    point = {
        "name": "small",
        "licence": "research use only",
        "commercial": False,
        "training_data": ["LFW"],
        "preprocess": preprocess,
        "config": {},
        "file": "x.safetensors",
        "sha256": "ab" * 32,
        "size_bytes": 2_500_000,
        "parameters": 1_250_000,
        "metrics": {"psnr_db": 27.25},
    }
    data = {**card_module.get_card("frgp").to_dict(), "checkpoints": [point], "reproduction": "reproductions/frgp"}
    text = make_docs.model_page(card_module.Card.from_dict(data))
    row = "| {} | {} |".format
    assert row("licence", "research use only") in text
    assert row("commercial use", "no") in text
    assert row("trained on", "LFW") in text
    assert row("size", "2.50 MB") in text
    assert row("SHA-256", "`" + "ab" * 32 + "`") in text
    assert row("psnr_db", "27.25") in text
    assert data["faithful"] in text
    assert data["bias"] in text
    assert "`reproductions/frgp`" in text
    assert all(limit in text for limit in data["limits"])


# --- the command line -------------------------------------------------------------------------------------------------


@every_page
def test_commands_and_options_exist(page, options):
    for command, rest in calls(page):
        assert command in options, f"there is no command 'facewright {command}'"
        unknown = set(OPTION.findall(rest)) - options[command]
        assert not unknown, f"facewright {command} has no {', '.join(sorted(unknown))}"


@every_page
def test_options_named_alone_exist(page, options):
    named = {name for span in re.findall(r"`(--[^`\n]+)`", prose(page)) for name in OPTION.findall(span)}
    assert named <= set().union(*options.values())


def test_the_table_of_the_readme_has_every_command():
    rows = re.findall(r"^\| `facewright ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == set(COMMANDS)


def test_every_option_of_restore_is_in_a_guide(options):
    text = "\n".join(guide.read_text(encoding="utf-8") for guide in GUIDES)
    hidden = {name for name in options["restore"] if name not in OPTION.findall(text)}
    positive = {name.replace("--no-", "--") for name in options["restore"] if name.startswith("--no-")}
    assert hidden - positive - {"--help", "--output"} == set()


def test_the_two_commands_of_the_readme():
    blocks = [block.strip() for block in fences(ROOT / "README.md", "bash")]
    assert "pip install -c constraints.txt -e . && facewright demo" in blocks
    assert 'pip install -c constraints.txt -e ".[dev]" && pytest' in blocks


def test_messages_in_the_troubleshooting_guide_are_the_programs_own():
    text = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [m for m in re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE) if m not in ("---", "the line says")]
    assert len(messages) > 20
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "facewright").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # a message written as several strings
    assert [m for m in messages if m not in source] == []


# --- links and names --------------------------------------------------------------------------------------------------


@every_page
def test_local_links_and_pictures_exist(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), f"{target} does not exist"
        if anchor:
            members = MEMBER.findall(found.read_text(encoding="utf-8"))
            assert anchor in slugs(found) | set(members), f"{target}: there is no such heading"


@every_page
def test_names_of_the_short_api_exist(page):
    used = set(re.findall(r"\bfw\.(\w+)", page.read_text(encoding="utf-8")))
    assert used <= set(facewright.__all__)


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("*.md")), ids=page_id)
def test_members_of_the_reference_exist(page):
    for name in MEMBER.findall(page.read_text(encoding="utf-8")):
        assert resolves(name), f"{name} is gone"


def resolves(name: str) -> bool:
    parent, _, member = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(parent), member) or bool(importlib.util.find_spec(name))
    except ModuleNotFoundError:
        return False


# --- examples ---------------------------------------------------------------------------------------------------------


@every_page
def test_python_examples_compile(page):
    for body in fences(page, "python"):
        compile(body, str(page), "exec")


@every_page
def test_recipes_are_complete(page, tmp_path):
    from facewright.training.trainer import Recipe

    for body in fences(page, "yaml"):
        if body.startswith("system:"):
            (tmp_path / "recipe.yaml").write_text(body, encoding="utf-8")
            assert Recipe.load(tmp_path / "recipe.yaml").steps > 0


def run_as_module(source: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def named(entry: str) -> Any:
    module, _, name = entry.partition(":")
    return getattr(sys.modules[module], name)


def training_batch(size: int, count: int = 2) -> dict:
    import torch

    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    return {"lq": pictures, "hq": pictures.flip(0), "mask": torch.ones(count, 1, size, size, dtype=torch.bool)}


def test_the_worked_example_of_a_new_system_works(monkeypatch, tmp_path):
    import torch

    from facewright.tasks.restore import Restorer
    from facewright.training.trainer import Recipe, build_config

    page = ROOT / "CONTRIBUTING.md"
    network, training_module = fences(page, "python")
    run_as_module(network, "facewright.systems.restore.plain.network", monkeypatch)
    run_as_module(training_module, "facewright.systems.restore.plain.training", monkeypatch)
    card = card_module.Card.from_dict(json.loads(fences(page, "json")[0]))
    monkeypatch.setattr(card_module, "cards", lambda: {card.slug: card})
    (tmp_path / "recipe.yaml").write_text(fences(page, "yaml")[0], encoding="utf-8")
    recipe = Recipe.load(tmp_path / "recipe.yaml")

    cls = named(card.entry)
    assert cls.card() == card
    model = cls(build_config(cls, {**recipe.config, "size": 32}))
    assert isinstance(model, Restorer)
    crops = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    restored = model.restore(crops)
    assert (restored.shape, restored.dtype) == (crops.shape, np.uint8)

    model.save_pretrained(tmp_path / "saved")  # type: ignore[attr-defined]
    np.testing.assert_array_equal(cls.from_pretrained(tmp_path / "saved").restore(crops), restored)

    training = named(recipe.training["entry"])(model, **recipe.training["options"])
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        assert name == "model"
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    losses = [float(training.step(training_batch(32), update, 0.0)["loss"]) for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in model.parameters())  # type: ignore[attr-defined]
    with torch.no_grad():
        assert set(training.validate(training_batch(32))) == {"loss"}


def test_the_data_set_of_the_training_guide_works(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(12):
        save_rgb(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), tmp_path / f"{index:02d}.png")
    source = next(body for body in fences(DOCS / "guides" / "train.md", "python") if "FolderPairs" in body)
    folder_pairs = run_as_module(source, "my_faces", monkeypatch).FolderPairs

    train, val = (folder_pairs(str(tmp_path), split=split) for split in ("train", "val"))
    assert len(train.files) == 10
    assert set(train.files).isdisjoint(val.files)
    item = train[5]
    assert {key: tuple(value.shape) for key, value in item.items()} == {
        "lq": (64, 64, 3),
        "hq": (64, 64, 3),
        "mask": (1, 64, 64),
        "degradation": (6,),
    }
    assert all((item[key] == train[5][key]).all() for key in item), "items must depend on the index alone"
    assert not (item["lq"] == train[6]["lq"]).all()
