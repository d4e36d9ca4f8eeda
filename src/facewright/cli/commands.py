"""The command line.

Exit codes: 0 all done, 1 some files of a folder failed, 2 nothing done (error or wrong usage), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import FacewrightError, OutputError, UsageError
from .analyse import analyse, portrait
from .evaluation import dictionary_app, eval_app
from .gallery import app as gallery_app
from .render import render as render_faces

STOPPED = 130

app = typer.Typer(
    name="facewright",
    help="Give the people in a photo or film their faces back, still themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("analyse")(analyse)
app.command("portrait")(portrait)
app.command("render")(render_faces)
app.add_typer(gallery_app)
app.add_typer(eval_app)
app.add_typer(dictionary_app)

Source = Annotated[Path, typer.Argument(help="Photo, film or folder.", show_default=False)]
Picture = Annotated[Path, typer.Argument(help="Photo.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a list of numbers such as 0,2") from error


def _tuples(texts: list[str], option: str, count: int) -> tuple[tuple[float, ...], ...]:
    try:
        values = tuple(tuple(float(part) for part in text.split(",")) for text in texts)
    except ValueError as error:
        raise UsageError(f"{option} takes {count} numbers separated by commas") from error
    if any(len(v) != count for v in values):
        raise UsageError(f"{option} takes {count} numbers separated by commas")
    return values


def _write_json(path: Path, data: Any, *, overwrite: bool) -> None:
    from ..io.atomic import atomic_output

    with atomic_output(path, overwrite=overwrite) as temporary:
        Path(temporary).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def restore(
    source: Source,
    output: Output,
    upscale: Annotated[int, typer.Option(help="Enlarge the whole picture: 1, 2 or 4.")] = 1,
    fidelity: Annotated[float, typer.Option(help="1 stays closest to the input, 0 leans on the prior.")] = 1.0,
    strength: Annotated[float, typer.Option(help="Blend with the input, 0 to 1.")] = 1.0,
    faces: Annotated[str | None, typer.Option(help="Only these faces, e.g. 0,2 (reading order).")] = None,
    skip: Annotated[str | None, typer.Option(help="Not these faces.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="Only faces inside x0,y0,x1,y1; repeatable.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="Only the face at x,y; repeatable.")] = None,
    max_faces: Annotated[int | None, typer.Option(help="At most so many, the largest first.")] = None,
    min_score: Annotated[float, typer.Option(help="Least score of a detection that is restored.")] = 0.7,
    force: Annotated[bool, typer.Option("--force", help="Also faces that would be left alone.")] = False,
    hair: Annotated[bool, typer.Option("--hair", help="Also the hair around the face.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Also glasses and hair before the face.")] = False,
    relight: Annotated[bool, typer.Option("--relight", help="Take the restorer's light and colours, too.")] = False,
    model: Annotated[str, typer.Option(help="Restorer; see 'facewright models'.")] = "frgp",
    weights: Annotated[str | None, typer.Option(help="Weights: file, folder, or name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Redraw the generator's noise; default as trained.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write what was done, as JSON.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Write a before/after sheet.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG/WebP/HEIC quality of the output.")] = 95,
    page: Annotated[int, typer.Option(min=0, help="Page of a multi-page TIFF, from 0.")] = 0,
    max_megapixels: Annotated[float, typer.Option(min=0, help="Refuse larger pictures.")] = 200.0,
    drop_gps: Annotated[bool, typer.Option("--drop-gps", help="Leave the place of the photo out.")] = False,
    provenance: Annotated[bool, typer.Option(help="Record in XMP what was restored.")] = True,
    watermark: Annotated[bool, typer.Option(help="Mark restored faces invisibly.")] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted folder or film.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Restore the faces of a photo, a film, or everything in a folder."""
    from ..pipelines.restore import RestoreOptions
    from ..runtime.folder import SaveOptions

    options = RestoreOptions(
        upscale=upscale,  # type: ignore[arg-type]
        fidelity=fidelity,
        strength=strength,
        faces=_numbers(faces, "--faces"),
        skip=_numbers(skip, "--skip") or (),
        boxes=_tuples(box or [], "--box", 4),  # type: ignore[arg-type]
        points=_tuples(point or [], "--point", 2),  # type: ignore[arg-type]
        max_faces=max_faces,
        min_score=min_score,
        force=force,
        watermark=watermark,
        seed=seed,
        hair=hair,
        whole=whole,
        relight=relight,
    )
    save = SaveOptions(
        overwrite=overwrite,
        quality=quality,
        provenance=provenance,
        keep_gps=not drop_gps,
        max_pixels=round(max_megapixels * 1e6),
        page=page,
    )
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    for extra in (report, compare):
        if extra is not None:
            _check_target(extra, overwrite=overwrite)
    loader = (model, weights, device, dtype)
    if source.is_dir():
        if compare is not None:
            raise UsageError("--compare makes the sheet of one photo; it is not possible for a folder")
        _restore_folder(source, output, loader, options, save, report, resume)
    else:
        _restore_file(source, output, loader, options, save, report, compare, resume)


def _check_target(target: Path, *, overwrite: bool) -> None:
    """Say before the work, not after it, that a result could not be written."""
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; choose another name or add --overwrite")
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist; create it first")


def _restore_file(
    source: Path,
    output: Path,
    loader: tuple[str, str | None, str, str],
    options: Any,
    save: Any,
    report: Path | None,
    compare: Path | None,
    resume: bool,
) -> None:
    from ..api import load_pipeline
    from ..io.encode import format_of
    from ..io.image import read
    from ..io.video import is_video

    if output.is_dir():
        output = output / source.name
    if output.resolve() == source.resolve():
        raise UsageError(f"{output} is the original; choose another name")
    _check_target(output, overwrite=save.overwrite)
    if is_video(source):
        if compare is not None:
            raise UsageError("--compare makes the sheet of one photo; it is not possible for a film")
        data = _restore_film(source, output, loader, options, save, resume)
    else:
        for picture in (output, *([compare] if compare else [])):
            format_of(picture)
        photo = read(source, page=save.page, max_pixels=save.max_pixels)
        result = load_pipeline(*loader)(photo, options)
        result.save(
            output,
            overwrite=save.overwrite,
            quality=save.quality,
            provenance=save.provenance,
            keep_gps=save.keep_gps,
        )
        for note in photo.notes:
            typer.echo(f"{source}: {note}")
        typer.echo(f"{output}: {result.summary}")
        if compare is not None:
            result.compare().save(compare, overwrite=save.overwrite)
        data = result.report()
    if report is not None:
        _write_json(report, data, overwrite=save.overwrite)


def _restore_film(
    source: Path, output: Path, loader: tuple[str, str | None, str, str], options: Any, save: Any, resume: bool
) -> dict[str, Any]:
    from ..api import load_pipeline
    from ..pipelines.film import restore_video
    from ..progress import bar

    with bar(source.name) as advance:
        result = restore_video(
            source,
            output,
            load_pipeline(*loader),
            options,
            overwrite=save.overwrite,
            resume=resume,
            provenance=save.provenance,
            progress=advance,
        )
    typer.echo(f"{output}: {result.summary}")
    return result.to_dict()


def _restore_folder(
    source: Path,
    output: Path,
    loader: tuple[str, str | None, str, str],
    options: Any,
    save: Any,
    report: Path | None,
    resume: bool,
) -> None:
    from ..api import load_pipeline
    from ..progress import bar
    from ..runtime.folder import plan, run

    jobs = plan(source, output)
    with bar(source.name) as advance:
        done = sum(resume and job.target.exists() for job in jobs)
        advance(done, len(jobs))

        def on_done(_: Any) -> None:
            nonlocal done
            done += 1
            advance(done, len(jobs))

        summary = run(jobs, load_pipeline(*loader), options, save, resume=resume, on_done=on_done)
    for outcome in summary.failed:
        typer.echo(f"failed: {outcome.error}", err=True)
    typer.echo(
        f"{output}: {len(summary.outcomes) - len(summary.failed)} done, {summary.already_done} already there, "
        f"{len(summary.failed)} failed"
    )
    if report is not None:
        files = [
            {"source": str(o.job.source.relative_to(source)), "error": o.error, "result": o.report}
            for o in summary.outcomes
        ]
        _write_json(report, files, overwrite=save.overwrite)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")] = Path("facewright-demo"),
) -> None:
    """Restore a real photo, an aged copy of it, and a collage of four faces, and show what was done."""
    from ..pipelines.demo import run_demo

    for line in run_demo(output):
        typer.echo(line)


@app.command("detect")
def detect_faces(
    source: Picture,
    draw: Annotated[Path | None, typer.Option(help="Write the photo with the faces drawn on it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the faces of a photo: boxes, five points, pose."""
    from ..api import detect, read
    from ..io.image import save_rgb
    from ..pipelines.sheets import draw_faces

    photo = read(source)
    found = detect(photo)
    if draw is not None:
        save_rgb(draw_faces(photo.rgb(), found), draw, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps([f.to_dict() for f in found], indent=2))
        return
    typer.echo(f"{source}: {len(found)} face{'s' * (len(found) != 1)}")
    for index, face in enumerate(found):
        x0, y0, x1, y1 = (round(float(v)) for v in face.box)
        pose = "" if face.pose is None else f", yaw {face.pose.yaw:.0f}, pitch {face.pose.pitch:.0f}"
        typer.echo(f"  {index}: box {x0},{y0},{x1},{y1}, score {face.score:.2f}{pose}")


@app.command("embed")
def embed_faces(
    source: Annotated[Path, typer.Argument(help="Photo or folder.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the embeddings as JSON.")] = None,
    model: Annotated[str, typer.Option(help="Recogniser; see 'facewright models'.")] = "sface",
    weights: Annotated[str | None, typer.Option(help="Weights: file, folder, or name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Identity embeddings of the faces of a photo or of all photos in a folder."""
    from ..api import load_identity

    pipeline = load_identity(model, weights, device)
    _per_photo(source, lambda photo: [f.to_dict() for f in pipeline.embed(photo)], output, as_json, overwrite)


@app.command("quality")
def rate_faces(
    source: Annotated[Path, typer.Argument(help="Photo or folder.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the qualities as JSON.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """How useful the picture of each face is, from 0 to 100, and what is wrong with it."""
    from ..api import quality
    from ..pipelines.identity import quality_dict

    def rate(photo: Any) -> list[dict[str, Any]]:
        rated = quality(photo, device=device)
        return [face.to_dict() | {"quality": quality_dict(found)} for face, found in rated]

    _per_photo(source, rate, output, as_json, overwrite)


@app.command("verify")
def verify_photos(
    first: Picture,
    second: Picture,
    far: Annotated[float, typer.Option(help="Accepted share of wrong matches: 0.01, 0.001 or 0.0001.")] = 1e-3,
    largest: Annotated[bool, typer.Option("--largest", help="Of several faces, take the largest.")] = False,
    model: Annotated[str, typer.Option(help="Recogniser; see 'facewright models'.")] = "sface",
    weights: Annotated[str | None, typer.Option(help="Weights: file, folder, or name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Whether two photos show the same person: same, different or cannot tell, and why."""
    from ..api import verify

    result = verify(first, second, far=far, largest=largest, model=model, weights=weights, device=device)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
        return
    typer.echo(f"{result.decision}: {result.reason}")
    if result.probability is not None:
        typer.echo(f"probability of one person {result.probability:.1%}, if both were equally likely before")
    if result.note:
        typer.echo(f"note: {result.note}")


def _per_photo(source: Path, analyse: Any, output: Path | None, as_json: bool, overwrite: bool) -> None:
    """Run an analysis on a photo or on all photos of a folder; one bad photo does not stop the rest."""
    from ..api import read
    from ..progress import bar
    from ..runtime.folder import photos_in

    if not source.is_dir():
        results = [{"source": str(source), "faces": analyse(read(source))}]
    else:
        results = []
        photos = photos_in(source)
        with bar(source.name) as advance:
            for number, path in enumerate(photos, start=1):
                results.append(_attempt(path, analyse))
                advance(number, len(photos))
    if output is not None:
        _write_json(output, results, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(results, indent=2, ensure_ascii=False))
    elif output is None:
        _print_faces(results)
    failed = [r for r in results if "error" in r]
    for result in failed:
        typer.echo(f"failed: {result['error']}", err=True)
    if failed:
        raise typer.Exit(2 if len(failed) == len(results) else 1)


def _attempt(path: Path, analyse: Any) -> dict[str, Any]:
    from ..api import read

    try:
        return {"source": str(path), "faces": analyse(read(path))}
    except FacewrightError as error:
        return {"source": str(path), "faces": [], "error": str(error)}


def _print_faces(results: list[dict[str, Any]]) -> None:
    for result in results:
        faces = result["faces"]
        typer.echo(f"{result['source']}: {len(faces)} face{'s' * (len(faces) != 1)}")
        for index, face in enumerate(faces):
            box = ",".join(str(round(v)) for v in face["box"])
            found = face["quality"]
            rated = "" if found is None else f", quality {found['quality']:.0f}"
            reasons = "" if not found or not found["reasons"] else f" ({', '.join(found['reasons'])})"
            typer.echo(f"  {index}: box {box}{rated}{reasons}")


@app.command("degrade")
def degrade_file(
    source: Picture,
    output: Output,
    preset: Annotated[str, typer.Option(help="Preset, e.g. gfpgan, severe, old-photo.")] = "gfpgan",
    seed: Annotated[int, typer.Option(help="Same seed, same picture.")] = 0,
    face_size: Annotated[float | None, typer.Option(help="Side of a face crop in this photo, in pixels.")] = None,
    keep_small: Annotated[bool, typer.Option("--keep-small", help="Do not enlarge again.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the drawn parameters as JSON.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Damage a photo the way restorers are trained and tested, reproducibly."""
    from ..api import degrade_photo
    from ..io.image import save_rgb

    pixels, record = degrade_photo(source, preset, seed=seed, face_size=face_size, keep_small=keep_small)
    save_rgb(pixels, output, overwrite=overwrite)
    if report is not None:
        _write_json(report, record, overwrite=overwrite)
    typer.echo(f"{output}: {pixels.shape[1]} x {pixels.shape[0]}, preset {preset}, seed {seed}")


@app.command("models")
def list_models(
    name: Annotated[str | None, typer.Argument(help="Show one system in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    task: Annotated[str | None, typer.Option(help="Only systems of this task.")] = None,
) -> None:
    """List the systems: paper, task, weights, licence."""
    from ..tasks.card import cards, get_card

    if name is not None:
        card = get_card(name)
        typer.echo(json.dumps(card.to_dict(), indent=2, ensure_ascii=False) if as_json else _describe(card))
        return
    chosen = [c for c in cards().values() if task in (None, c.task)]
    if as_json:
        typer.echo(json.dumps([c.to_dict() for c in chosen], indent=2, ensure_ascii=False))
        return
    for card in chosen:
        weights = ", ".join(c.name for c in card.checkpoints) or "none embedded"
        typer.echo(f"{card.slug:22} {card.task:12} {card.title} ({card.year}); weights: {weights}")


def _describe(card: Any) -> str:
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
    return "\n".join(lines)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.", show_default=False)],
    output: Output,
    steps: Annotated[int | None, typer.Option(help="Stop after so many further steps.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not continue from a checkpoint.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads for the network.")] = None,
) -> None:
    """Train a system by its recipe; run again to continue."""
    import torch

    from ..training.trainer import Recipe, Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    folder = Trainer(Recipe.load(recipe), output).run(resume=not fresh, steps=steps)
    typer.echo(f"weights in {folder}")


@app.command("import")
def import_weights(
    name: Annotated[str, typer.Argument(help="System the checkpoint belongs to.", show_default=False)],
    checkpoint: Annotated[Path, typer.Argument(help="Published checkpoint.", show_default=False)],
    output: Output,
    overwrite: Overwrite = False,
) -> None:
    """Convert a published checkpoint to checked safetensors (a folder for --weights)."""
    from ..weights.published import import_checkpoint

    typer.echo(f"weights in {import_checkpoint(name, checkpoint, output, overwrite=overwrite)}")


@app.command("export")
def export_network(
    name: Annotated[str, typer.Argument(help="System: frgp, mos or sface.", show_default=False)],
    output: Output,
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint name, folder or file; the embedded ones if none.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a network as ONNX for another runtime, checked against PyTorch."""
    from ..api import create
    from ..weights.onnx import export_onnx

    model = create(name, pretrained=weights or True)
    report = export_onnx(model, output, overwrite=overwrite)
    worst = max(report.difference.values())
    typer.echo(f"{report.path}: {report.bytes / 1e6:.1f} MB, differs from PyTorch by at most {worst:.0e} of an output")


@app.command()
def bundle(
    file: Annotated[Path, typer.Argument(help="Bundle file.", show_default=False)],
    install: Annotated[bool, typer.Option("--install", help="Install it here instead of making it.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make, or --install, one file with all downloadable weights for a machine without a network."""
    from ..tasks.card import cards
    from ..weights.store import install_bundle, make_bundle

    if install:
        typer.echo(f"{install_bundle(file)} checkpoints installed")
        return
    wanted = [c for card in cards().values() for c in card.checkpoints if not c.file]
    make_bundle(wanted, file, overwrite=overwrite)
    typer.echo(f"{file}: {len(wanted)} checkpoints")


def main() -> None:
    """Entry point: errors raised on purpose become one line and an exit code."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == STOPPED:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except FacewrightError as error:
        _fail(str(error), error.exit_code)
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
