"""Commands about weights: what there is, fetching it, reading checkpoints, bundles for machines without a network."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FacewrightError, UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..tasks.card import Card, PublishedFile

ACCEPT_HELP = "Accept the licence of published weights; remembered."
TRUST_HELP = "Fetch files without a confirmed SHA-256, and pin what comes."
AcceptLicence = Annotated[bool, typer.Option("--accept-licence", help=ACCEPT_HELP)]
TrustFirst = Annotated[bool, typer.Option("--trust-first-download", help=TRUST_HELP)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing outputs.")]


def end_with(failures: Sequence[str], total: int) -> None:
    """Name what failed of `total` on standard error; exits with 1, or with 2 where nothing was done."""
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    if failures:
        raise typer.Exit(2 if len(failures) == total else 1)


@contextmanager
def on_terms(accept_licence: bool = False, trust_first_download: bool = False) -> Iterator[None]:
    """Around a command: what was agreed to, notes and bars on standard error, questions where a person can answer."""
    from ..progress import DownloadBars
    from ..weights.terms import terms

    with DownloadBars() as bars:

        def ask(question: str) -> bool:
            bars.clear()
            return typer.confirm(question, err=True)

        with terms(
            accept_licence=accept_licence,
            trust_first_download=trust_first_download,
            ask=ask if sys.stdin.isatty() and sys.stderr.isatty() else None,
            tell=lambda line: typer.echo(line, err=True),
            progress=bars.advance,
        ):
            yield


def may_fetch(command: Callable[..., None]) -> Callable[..., None]:
    """A command that may load published networks, with the options by which their terms are agreed to."""

    @functools.wraps(command)
    def agreed(*, accept_licence: bool, trust_first_download: bool, **values: Any) -> None:
        with on_terms(accept_licence, trust_first_download):
            command(**values)

    own = list(inspect.signature(command, eval_str=True).parameters.values())
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("accept_licence", AcceptLicence), ("trust_first_download", TrustFirst))
    ]
    agreed.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    agreed.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    return agreed


def list_models(
    name: Annotated[str | None, typer.Argument(help="Show the details of one system.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    task: Annotated[str | None, typer.Option(help="Only systems of this task.")] = None,
) -> None:
    """List the systems with paper, task, weights and licence; for one system, also its published files."""
    from ..tasks.card import cards, get_card

    if name is not None:
        card = get_card(name)
        typer.echo(json.dumps(card.to_dict(), indent=2, ensure_ascii=False) if as_json else _describe(card))
        return
    chosen = [c for c in cards().values() if task is None or task in c.tasks]
    if as_json:
        typer.echo(json.dumps([c.to_dict() for c in chosen], indent=2, ensure_ascii=False))
        return
    for card in chosen:
        weights = ", ".join([c.name for c in card.checkpoints] + [f"{f.name}*" for f in card.published]) or "none"
        typer.echo(f"{card.slug:22} {card.task:12} {card.title} ({card.year}); weights: {weights}")
    typer.echo("* published by others: facewright download NAME, or give it as --weights", err=True)


def _describe(card: Card) -> str:
    lines = [
        f"{card.name} ({card.slug}), task: {card.task}",
        f"{card.title}. {card.authors}, {card.year}. {card.url}",
        card.summary,
        f"Faithfulness: {card.faithful}",
        *(f"Limit: {limit}" for limit in card.limits),
        f"Bias: {card.bias}",
    ]
    for point in card.checkpoints:
        use = "commercial use allowed" if point.commercial else "no commercial use"
        lines += [
            f"Weights {point.name}: {point.parameters / 1e6:.2f} M parameters, {point.size_bytes / 1e6:.2f} MB, "
            f"{point.licence} ({use}), trained on {', '.join(point.training_data)}",
            *(f"  {key}: {value:g}" for key, value in point.metrics.items()),
        ]
    return "\n".join(lines + [line for file in card.published for line in _published(card, file)])


def _published(card: Card, file: PublishedFile) -> list[str]:
    from ..weights.catalogue import size_text, state_text

    use = "commercial use allowed" if file.commercial else "no commercial use"
    known = f"SHA-256 {file.sha256}" if file.sha256 else "no SHA-256 confirmed by two sources"
    return [
        f"Published {file.name}: {file.file}, {size_text(file)}, {file.licence} ({use}), "
        f"trained on {', '.join(file.training_data)}",
        f"  {known}",
        f"  {state_text(card, file)}",
        *([f"  {file.note}"] if file.note else []),
    ]


def download(
    names: Annotated[list[str] | None, typer.Argument(help="Systems, or one file of a system as SLUG/NAME.")] = None,
    task: Annotated[str | None, typer.Option(help="The default file of every system of this task.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every file that can be downloaded.")] = False,
    accept_licence: AcceptLicence = False,
    trust_first_download: TrustFirst = False,
) -> None:
    """Download published weights, check and convert them; later runs work offline."""
    from ..weights import catalogue

    failed: list[str] = []
    chosen = catalogue.select(names or [], task=task, everything=everything)
    with on_terms(accept_licence, trust_first_download):
        for card, file in chosen:
            try:
                typer.echo(f"{card.slug}/{file.name}: {catalogue.obtain(card, file)}")
            except FacewrightError as error:
                if len(chosen) == 1:
                    raise
                failed.append(f"{card.slug}/{file.name}: {error}")
    end_with(failed, len(chosen))


def import_weights(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[NAME] FILE", help="Checkpoint; optionally name its system first.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output folder; default: the download folder.")
    ] = None,
    overwrite: Overwrite = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Import a checkpoint (.pth, .pt, .ckpt, .safetensors, .onnx) of any known system."""
    from ..tasks.card import get_card
    from ..weights import catalogue
    from ..weights.published import import_checkpoint

    if len(arguments) > 2:
        raise UsageError("give a checkpoint, or the name of a system and a checkpoint")
    named = get_card(arguments[0]) if len(arguments) == 2 else None
    checkpoint = Path(arguments[-1])
    if not checkpoint.is_file():
        raise WeightsError(f"no checkpoint at {checkpoint}")
    card = named or get_card(_recognised(checkpoint))
    slug = card.slug
    with on_terms(accept_licence):
        if (namesake := catalogue.impostor(card, checkpoint)) is not None:
            typer.echo(f"{checkpoint} is not the published {namesake.file}: its SHA-256 is another", err=True)
        if output is not None:
            typer.echo(f"weights in {import_checkpoint(slug, checkpoint, output, overwrite=overwrite)}")
            return
        folder, file = catalogue.adopt(card, checkpoint)
    known = f"; it is the published {file.name}: --model {card.slug} --weights {file.name}" if file else ""
    typer.echo(f"weights in {folder}{known}")


def _recognised(checkpoint: Path) -> str:
    from ..weights.published import recognise

    found = recognise(checkpoint)
    if len(found.systems) == 1:
        typer.echo(f"{checkpoint}: a checkpoint of {found.systems[0]}", err=True)
        return found.systems[0]
    if found.systems:
        raise WeightsError(
            f"{checkpoint} fits several systems; say which: facewright import {'|'.join(found.systems)} {checkpoint}"
        )
    nearest = f"; nearest: {', '.join(found.near[:3])}" if found.near else ""
    raise WeightsError(f"{checkpoint} does not belong to any known system{nearest}; see 'facewright models'")


def bundle(
    file: Annotated[Path, typer.Argument(help="Bundle file.", show_default=False)],
    names: Annotated[
        list[str] | None, typer.Argument(help="Systems, or SLUG/NAME; default: everything downloaded.")
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Install this bundle instead of creating one.")] = False,
    accept_licence: AcceptLicence = False,
    trust_first_download: TrustFirst = False,
    overwrite: Overwrite = False,
) -> None:
    """Pack downloaded weights into one file for an offline machine, or --install such a file."""
    from ..weights import catalogue
    from ..weights.bundle import install_bundle, make_bundle

    if install:
        typer.echo(f"{install_bundle(file)} files installed")
        return
    with on_terms(accept_licence, trust_first_download):
        if names:
            chosen = catalogue.select(names)
        else:
            chosen = [(c, f) for c, f in catalogue.published_files() if catalogue.local_file(c, f) is not None]
        make_bundle(chosen, file, overwrite=overwrite)
    typer.echo(f"{file}: {len(chosen)} published files")
