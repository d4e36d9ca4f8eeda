"""facewright analyse: what the faces of a photo are like; facewright portrait: backgrounds, skin and teeth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

Picture = Annotated[Path, typer.Argument(help="Photo.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


def analyse(
    source: Picture,
    draw: Annotated[Path | None, typer.Option(help="Write the photo with all that was found drawn on it.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the analysis as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    min_score: Annotated[float, typer.Option(help="Least score of a detection.")] = 0.7,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Boxes, 68 landmarks, pose and the parts of every face of a photo."""
    from ..api import load_analyser, read
    from ..io.atomic import atomic_output
    from ..io.image import save_rgb
    from ..pipelines.analyse import draw_analysis, to_json

    photo = read(source)
    found = load_analyser(device=device)(photo, min_score=min_score)
    if draw is not None:
        save_rgb(draw_analysis(photo.rgb(), found), draw, overwrite=overwrite)
    if output is not None:
        with atomic_output(output, overwrite=overwrite) as temporary:
            Path(temporary).write_text(to_json(found, photo) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(to_json(found, photo))
        return
    typer.echo(f"{source}: {len(found)} face{'s' * (len(found) != 1)}")
    for face in found:
        box = ",".join(str(round(float(v))) for v in face.face.box)
        pose = f"yaw {face.pose.yaw:.0f}, pitch {face.pose.pitch:.0f}, roll {face.pose.roll:.0f}"
        parts = "" if face.mask is None else f"; {', '.join(face.mask.to_dict()['pixels'])}"
        typer.echo(f"  {face.index}: box {box}, {pose}, landmarks {face.confidence.mean():.0%} sure{parts}")


def portrait(
    source: Picture,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the picture goes.", show_default=False)],
    background: Annotated[str, typer.Option(help="keep, blur, remove, or a picture that replaces it.")] = "keep",
    blur: Annotated[float, typer.Option(min=0, max=1, help="How far the background is out of focus.")] = 0.5,
    smooth_skin: Annotated[float, typer.Option(min=0, max=1, help="How much blemishes are evened out.")] = 0.0,
    whiten_teeth: Annotated[float, typer.Option(min=0, max=1, help="How much lighter teeth get.")] = 0.0,
    model: Annotated[str, typer.Option(help="Parser; see 'facewright models'.")] = "segface",
    weights: Annotated[str | None, typer.Option(help="Weights: file, folder, or name.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Blur, remove or replace the background of a portrait, smooth skin, whiten teeth."""
    from ..api import load_detector, load_parser, read
    from ..pipelines.portrait import retouch

    photo = read(source)
    backdrop = None
    if background not in ("keep", "blur", "remove"):
        if not Path(background).is_file():
            raise UsageError(f"--background {background!r} is neither keep, blur, remove nor a picture")
        backdrop = read(background).rgb()
    faces = load_detector(device).detect(photo.rgb())
    result = retouch(
        photo,
        [face for face in faces if face.score >= 0.7],
        load_parser(model, weights, device),
        background="replace" if backdrop is not None else background,  # type: ignore[arg-type]
        backdrop=backdrop,
        blur=blur,
        skin=smooth_skin,
        teeth=whiten_teeth,
    )
    result.save(output, overwrite=overwrite)
