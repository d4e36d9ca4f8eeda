"""Write the generated pages of the documentation: one per system, the attribution table, the command line reference.

    python tools/make_docs.py            # write docs/models/ and docs/reference/cli.md
    python tools/make_docs.py --check    # say what would change, exit with 1 if anything would

The cards and the command line are the only sources; running it twice changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.main

from facewright.cli.commands import app
from facewright.tasks.card import Card, Checkpoint, PublishedFile, cards
from facewright.tasks.declare import WITHOUT_VERB, Task, option_fields, tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from facewright.geometry.crop import CropSpec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = "<!-- Written by tools/make_docs.py; edit the card or the code instead. -->"
TASKS = {task.name: task.title for task in tasks().values() if task.title} | WITHOUT_VERB
NO_WEIGHTS = "None yet; train them with a recipe, or give your own with `--weights`."
PUBLISHED = (
    "What others published; `--weights` takes the name, and the file is fetched when it is first used (see "
    "[Published weights](../guides/published-weights.md)). A SHA-256 is shown where two sources state it."
)


def pages() -> dict[Path, str]:
    """Every generated page: path below `docs/` and its text."""
    known = list(cards().values())
    found = {Path("models") / f"{card.slug}.md": model_page(card) for card in known}
    found[Path("models/index.md")] = index_page(known)
    found[Path("reference/cli.md")] = cli_page()
    found[Path("reference/api.md")] = api_page()
    declared = tasks().values()
    found |= {Path("reference/tasks") / f"{task.verb}.md": task_page(task) for task in declared}
    found[Path("reference/tasks/index.md")] = tasks_page(declared)
    return found


def stale(docs: Path = DOCS) -> list[str]:
    """Generated pages that are missing, out of date, or left over from a system that is gone."""
    wanted = pages()
    wrong = [
        path.as_posix()
        for path, text in wanted.items()
        if not (docs / path).exists() or (docs / path).read_text(encoding="utf-8") != text
    ]
    return wrong + [path.as_posix() for path in left_over(docs, wanted)]


def left_over(docs: Path, wanted: Iterable[Path]) -> list[Path]:
    """Pages in the folders of models and tasks that no card and no declaration asks for."""
    keep = set(wanted)
    present = [*sorted((docs / "models").glob("*.md")), *sorted((docs / "reference" / "tasks").glob("*.md"))]
    return [path.relative_to(docs) for path in present if path.relative_to(docs) not in keep]


def write(docs: Path = DOCS) -> None:
    """Bring all generated pages up to date."""
    wanted = pages()
    for path in left_over(docs, wanted):
        (docs / path).unlink()
    for path, text in wanted.items():
        (docs / path).parent.mkdir(parents=True, exist_ok=True)
        (docs / path).write_text(text, encoding="utf-8")


def page(title: str, *blocks: str) -> str:
    return "\n\n".join([GENERATED, f"# {title}", *(b for b in blocks if b)]) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


# --- models -----------------------------------------------------------------------------------------------------------


def index_page(known: list[Card]) -> str:
    """The table of all systems and the attribution of all weights."""
    blocks = ["Every system facewright knows, made from its card. `facewright models` prints the same list."]
    for task in dict.fromkeys(card.task for card in known):
        rows = [
            (f"[{c.name}]({c.slug}.md)", f"`{c.slug}`", f"[{c.title}]({c.url}) ({c.year})", _weight_names(c))
            for c in known
            if c.task == task
        ]
        blocks += [f"## {TASKS.get(task, task.capitalize())}", table(("system", "name", "paper", "weights"), rows)]
    rows = [
        (f"{c.slug} / {p.name}", p.licence, yes_no(p.commercial), ", ".join(p.training_data))
        for c in known
        for p in c.checkpoints
    ]
    header = ("weights", "licence", "commercial use", "trained on")
    blocks += ["## What the weights may be used for", table(header, rows) if rows else NO_WEIGHTS]
    return page("Models", *blocks)


def _weight_names(card: Card) -> str:
    own = [f"`{p.name}`" for p in card.checkpoints]
    return ", ".join([*own, *([f"{len(card.published)} published"] if card.published else [])]) or "none"


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def model_page(card: Card) -> str:
    """The card of one system as a page."""
    paper = f"**Paper.** [{card.title}]({card.url}). {card.authors}, {card.year}."
    use = f"**Use.** `fw.create({card.slug!r}, pretrained=True)`; `facewright models {card.slug}` prints this card."
    blocks = [card.summary, paper, use, "## How close to the paper", card.faithful]
    if card.parity:
        vectors = ", ".join(f"`{name}`" for name in card.parity)
        blocks.append(f"Checked against reference vectors of published networks: {vectors}.")
    blocks += ["## Weights", *[weights_block(p) for p in card.checkpoints]]
    if not card.checkpoints:
        blocks.append("None of this project's own." if card.published else NO_WEIGHTS)
    if card.published:
        blocks += ["## Published weights", PUBLISHED, published_table(card)]
    blocks += ["## Limits", bullets(card.limits) if card.limits else "None are on record yet."]
    failures = Path("images") / f"{card.slug}-failures.jpg"
    if (DOCS / failures).exists():
        blocks += ["## Failures to look at", f"![Rendered people: damaged, restored, true](../{failures.as_posix()})"]
    blocks += ["## Bias", card.bias or "Not measured yet."]
    proof = f"Numbers and how to make them again: `{card.reproduction}`." if card.reproduction else "None yet."
    blocks += ["## Reproduction", proof]
    return page(f"{card.name}: {TASKS.get(card.task, card.task).lower()}", *blocks)


def published_table(card: Card) -> str:
    """The files others have published for a system."""
    rows = [
        (
            f"`{file.name}`",
            f"[{file.file}]({_address(file)})",
            f"{file.size_bytes / 1e6:,.1f} MB" if file.size_bytes else "",
            file.licence,
            yes_no(file.commercial),
            ", ".join(file.training_data),
            f"`{file.sha256[:16]}…`" if file.sha256 else "",
        )
        for file in card.published
    ]
    return table(("name", "file", "size", "licence", "commercial use", "trained on", "SHA-256"), rows)


def _address(file: PublishedFile) -> str:
    """Where a person finds a file."""
    address = file.urls[0] if file.urls else file.page
    if not address.startswith("hf://"):
        return address
    owner, name, path = address.removeprefix("hf://").split("/", 2)
    name, _, revision = name.partition("@")
    return f"https://huggingface.co/{owner}/{name}/blob/{revision}/{path}"


def weights_block(point: Checkpoint) -> str:
    """What is to be known of one set of weights."""
    rows = [
        ("licence", point.licence),
        ("commercial use", yes_no(point.commercial)),
        ("trained on", ", ".join(point.training_data)),
        ("parameters", f"{point.parameters / 1e6:.2f} M"),
        ("size", f"{point.size_bytes / 1e6:.2f} MB"),
        ("SHA-256", f"`{point.sha256}`"),
        ("comes", "with the package" if point.file else f"from `{point.repo_id}` on the Hugging Face hub"),
        ("input", input_contract(point)),
    ]
    if point.recipe:
        rows.append(("recipe", f"`{point.recipe}`"))
    parts = [f"### `{point.name}`", table(("", ""), rows)]
    if point.metrics:
        numbers = ((name, f"{value:g}") for name, value in point.metrics.items())
        parts += ["Measured on people the weights never saw:", table(("measure", "value"), numbers)]
    else:
        parts.append("Not measured yet.")
    return "\n\n".join(parts)


def input_contract(point: Checkpoint) -> str:
    record = point.preprocess
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (record.mean, record.std))
    return f"{crop_contract(record.crop)}, {record.colour}, (p / {record.scale:g} − [{mean}]) / [{std}]"


def crop_contract(crop: CropSpec) -> str:
    """Which part of a photo is fed, in words."""
    if crop.kind == "whole":
        return f"whole photo, {f'scaled to {crop.size} px' if crop.size else 'any size'}"
    size = f"{crop.size} × {crop.size} px"
    if crop.kind == "framed":
        return f"the box, {100 * crop.margin:g} % added on every side within the photo, stretched to {size}"
    if crop.kind == "box":
        level = ", eyes level" if crop.level_eyes else ""
        return f"square around the box, {100 * crop.margin:g} % added on every side{level}, {size}"
    zoom = ""
    if crop.zoom != 1 or crop.centre != (0.5, 0.5):
        zoom = f", enlarged {crop.zoom:g} times around ({crop.centre[0]:g}, {crop.centre[1]:g})"
    return f"crop on the `{crop.template}` template{zoom}, {size}"


# --- tasks ------------------------------------------------------------------------------------------------------------


def tasks_page(declared: Iterable[Task]) -> str:
    """The table of all tasks."""
    rows = [
        (f"[`{t.verb}`]({t.verb}.md)", t.summary, str(t.shape), ", ".join(t.media), f"`{t.default}`") for t in declared
    ]
    said = "Every task is declared once, in `facewright.tasks`; its function, command and this page come from there."
    return page("Tasks", said, table(("task", "what it gives", "shape", "takes", "default system"), rows))


def task_page(task: Task) -> str:
    """What one task does, takes and gives."""
    rows = [(f"`{f.name}`", f"`{f.flag}`", f.opt.help, f"`{f.default!r}`") for f in option_fields(task.options)]
    systems = [(f"[{c.name}](../../models/{c.slug}.md)", f"`{c.slug}`", _weight_names(c)) for c in task.cards()]
    schema = json.dumps(task.schema()["result"], indent=2, ensure_ascii=False)
    blocks = [
        task.summary,
        f"`fw.{task.verb}(…)` in Python, `facewright {task.command}` on the command line, "
        f"`POST /v1/{task.verb}` over HTTP. "
        f"Takes: {', '.join(task.media)}.",
        f"More in [the guide](../../{task.guide})." if task.guide else "",
        "## Options",
        table(("Python", "command line", "what it does", "default"), rows) if rows else "None of its own.",
        "## Systems",
        table(("system", "name", "weights"), systems),
        f"Measured by: {', '.join(task.metrics)}." if task.metrics else "",
        "## Result as JSON",
        f"```json\n{schema}\n```",
    ]
    return page(task.command.replace("-", " ").capitalize(), *blocks)


def api_page() -> str:
    """The functions of the short API."""
    verbs = [f"::: facewright.api.{verb}" for verb in tasks()]
    others = [
        f"::: facewright.loading.{name}"
        for name in ("read", "degrade_photo", "models", "create", "download", "load_pipeline")
    ]
    session = "::: facewright.runtime.session.Session"
    return page("The short API", "`import facewright as fw` gives these names.", *verbs, *others, session)


# --- command line -----------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its arguments and options, as the program itself describes them."""
    root: Any = typer.main.get_command(app)
    blocks = [
        "Exit codes: **0** all done · **1** some files of a folder failed · **2** nothing done, because of an error or "
        "wrong usage · **130** stopped with Ctrl-C. Errors are one line on standard error.",
        "`facewright -v COMMAND …` shows what is decided and skipped on the way: device, fallbacks, downloads, skipped "
        "files. `-vv` shows more.",
    ]
    for name, command in leaf_commands(root.commands):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["facewright", name, *(_argument(a) for a in arguments), "[options]"])
        blocks += [f"## {name}", command.help or "", f"```text\n{usage}\n```"]
        rows = [_parameter(p) for p in command.params if not p.hidden]
        blocks.append(table(("", "what it does", "default"), rows) if rows else "")
    return page("Command line", *blocks)


def leaf_commands(commands: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups included."""
    for name, command in commands.items():
        if children := getattr(command, "commands", None):
            yield from leaf_commands(children, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).strip("[]").upper()
    return name if parameter.required else f"[{name}]"


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`", parameter.help or "", ""
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names, parameter.help or "", "required" if parameter.required else _default(parameter)


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or callable(value) or "Sentinel" in type(value).__name__:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"`{value}`"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if anything is out of date")
    if not parser.parse_args().check:
        write()
        return 0
    wrong = stale()
    for path in wrong:
        print(f"docs/{path} is out of date; run: python tools/make_docs.py", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
