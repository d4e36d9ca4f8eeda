"""The command line.

Exit codes: 0 all done or already there, 1 some files of a folder failed, 2 nothing done (error or wrong usage), 130
stopped by Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FacewrightError
from ..tasks.declare import Shape, tasks
from .batch import app as batch_app
from .batch import batch_command
from .build import command, write_json
from .evaluation import dictionary_app, eval_app
from .gallery import app as gallery_app
from .logs import set_up
from .render import render as render_faces
from .serve import gradio_app, serve_command
from .weights import bundle, download, import_weights, list_models, may_fetch

STOPPED = 130

app = typer.Typer(
    name="facewright",
    help="Restore the faces in photos and videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for task in tasks().values():
    app.command(task.command)(command(task))
    if task.shape in (Shape.RECORDS, Shape.EDIT):
        batch_app.command(task.command)(batch_command(task))
app.command("serve")(serve_command())
app.command("gradio")(gradio_app)
app.command("render")(render_faces)
app.command("models")(list_models)
app.command("download")(download)
app.command("import")(import_weights)
app.command("bundle")(bundle)
app.add_typer(batch_app)
app.add_typer(gallery_app)
app.add_typer(eval_app)
app.add_typer(dictionary_app)


@app.callback()
def common(
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Show decisions and fallbacks; -vv shows more.")
    ] = 0,
) -> None:
    """What holds for all commands."""
    set_up(verbose)


Picture = Annotated[Path, typer.Argument(help="Photo.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", help="Output file or folder.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing outputs.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Output folder.")] = Path("facewright-demo"),
) -> None:
    """Restore a real photo, an aged copy of it and a collage of four faces."""
    from ..pipelines.demo import run_demo

    for line in run_demo(output):
        typer.echo(line)


@app.command("degrade")
def degrade_file(
    source: Picture,
    output: Output,
    preset: Annotated[str, typer.Option(help="Preset, e.g. gfpgan, severe, old-photo.")] = "gfpgan",
    seed: Annotated[int, typer.Option(help="Same seed, same picture.")] = 0,
    face_size: Annotated[float | None, typer.Option(help="Side of the face crop in this photo, in pixels.")] = None,
    keep_small: Annotated[bool, typer.Option("--keep-small", help="Keep the reduced size.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the sampled parameters as JSON.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Damage a photo reproducibly, as for training and testing restorers."""
    from ..io.image import save_rgb
    from ..loading import degrade_photo

    pixels, record = degrade_photo(source, preset, seed=seed, face_size=face_size, keep_small=keep_small)
    save_rgb(pixels, output, overwrite=overwrite)
    if report is not None:
        write_json(report, record, overwrite=overwrite)
    typer.echo(f"{output}: {pixels.shape[1]} x {pixels.shape[0]}, preset {preset}, seed {seed}")


@app.command()
@may_fetch
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.", show_default=False)],
    output: Output,
    steps: Annotated[int | None, typer.Option(help="Stop after this many more steps.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not continue from a checkpoint.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads for the network.")] = None,
) -> None:
    """Train a system from a recipe; run it again to resume."""
    import torch

    from ..training.trainer import Recipe, Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    folder = Trainer(Recipe.load(recipe), output).run(resume=not fresh, steps=steps)
    typer.echo(f"weights in {folder}")


@app.command("export")
@may_fetch
def export_network(
    name: Annotated[str, typer.Argument(help="System: frgp, mos or distilledface.", show_default=False)],
    output: Output,
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint name, folder or file; default: the embedded weights.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a network to ONNX and check it against PyTorch."""
    from ..loading import create
    from ..weights.onnx import export_onnx

    model = create(name, pretrained=weights or True)
    report = export_onnx(model, output, overwrite=overwrite)
    worst = max(report.difference.values())
    typer.echo(f"{report.path}: {report.bytes / 1e6:.1f} MB, differs from PyTorch by at most {worst:.0e} of an output")


def main() -> None:
    """Entry point: errors raised on purpose become one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name that the terminal's encoding cannot hold ends no run
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == STOPPED:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except FacewrightError as error:
        _fail("; ".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped; nothing half-written is left, run again with --resume to go on", STOPPED)
    except MemoryError:
        _fail("not enough memory; use a smaller picture or lower --upscale", 2)
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        _fail(usage(), 2)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(f"facewright: {line}", file=sys.stderr)
    sys.exit(code)
