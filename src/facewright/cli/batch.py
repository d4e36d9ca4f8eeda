"""`facewright batch TASK`: the commands of single photos over many, with the same options."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tasks.declare import Shape, Task
from .build import OVERWRITE, READING, WRITING, assemble, option

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="batch",
    help="Run a task over any number of photos, on several processors or machines (Ray).",
    no_args_is_help=True,
)


def batch_command(task: Task) -> Callable[..., None]:
    """The function that typer turns into `facewright batch <task>`."""
    edits = task.shape is Shape.EDIT

    def run(options: Any, choice: Any, **values: Any) -> None:
        _run(task, options, choice, **values)

    source = inspect.Parameter(
        "source",
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[str, typer.Argument(help=_SOURCE, show_default=False)],
    )
    output = option("output", str, inspect.Parameter.empty, _OUTPUT[edits], "-o", "--output")
    own = [
        option("workers", int, 2, "Processes; 0 works in this one, without Ray.", min=0),
        option("photos", int, 16, "Photos that a worker gets at a time.", min=1),
        option("address", str, "", "Address of a Ray cluster, or auto; default: start one on this machine."),
        option("store_mb", int, 512, "Memory for photos that wait, of a cluster that is started.", min=80),
        option("notes", Path | None, None, "Folder for the notes of the run; default: in the output."),
        option("retry_failed", bool, False, "Do again what failed in an earlier run.", "--retry-failed"),
        option("report", Path | None, None, "Write a line of JSON for every photo."),
        *([] if edits else [option("key", Path | None, None, "Key file of an encrypted gallery.")]),
        *READING,
        *(WRITING if edits else ()),
        OVERWRITE,
    ]
    return assemble(task, ([source, output], own), run)


_SOURCE = "Folder, WebDataset .tar, .parquet, or an address such as s3://bucket/photos."
_OUTPUT = {
    True: "Folder, or a name ending in .parquet.",
    False: "Folder, or a name ending in .parquet; for embeddings also a gallery.",
}


def _run(
    task: Task,
    options: Any,
    choice: Any,
    *,
    source: str,
    output: str,
    workers: int,
    photos: int,
    address: str,
    store_mb: int,
    notes: Path | None,
    retry_failed: bool,
    report: Path | None,
    page: int | None,
    max_megapixels: float,
    overwrite: bool,
    quality: int = 95,
    drop_gps: bool = False,
    provenance: bool = True,
    key: Path | None = None,
) -> None:
    from ..batch.run import Machines, manifest_of, run, write_report
    from ..io.atomic import check_output
    from ..progress import bar
    from ..runtime.editing import SaveOptions

    save = SaveOptions(overwrite, quality, provenance, not drop_gps, round(max_megapixels * 1e6), page)
    if report is not None:
        check_output(report, overwrite=overwrite)
    with bar(Path(source).name) as advance:
        seen = 0

        def on_outcome(outcome: Any, total: int) -> None:
            nonlocal seen
            seen += 1
            advance(seen, total)
            if outcome.error is not None:
                typer.echo(f"failed: {outcome.error}", err=True)

        summary = run(
            task,
            source,
            output,
            options,
            choice,
            save,
            Machines(workers, address, photos, store_mb),
            key_file=None if key is None else str(key),
            notes=notes,
            retry_failed=retry_failed,
            on_outcome=on_outcome,
        )
    if report is not None:
        write_report(manifest_of(output, notes), report, overwrite=overwrite)
    typer.echo(f"{output}: {summary.line}")
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
