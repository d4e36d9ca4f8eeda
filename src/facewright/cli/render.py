"""facewright render: pictures of made-up people with everything that is known about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 (typer reads it at run time)
from typing import Annotated

import typer

from ..errors import UsageError
from ..io.image import save_rgb
from ..progress import bar


def render(
    output: Annotated[Path, typer.Option("-o", "--output", help="Output folder.", show_default=False)],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of pictures.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side of the pictures in pixels.")] = 256,
    what: Annotated[str, typer.Option(help="Outputs per picture; see the guide.")] = "rgb,mask",
    model: Annotated[str, typer.Option(help="coarse, or the folder or .npz of ICT-FaceKit.")] = "coarse",
    backgrounds: Annotated[Path | None, typer.Option(help="Folder or tar of pictures; default: synthetic.")] = None,
    people: Annotated[int | None, typer.Option(min=1, help="Number of people; default: one per picture.")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Without camera blur, noise and JPEG.")] = False,
    scene: Annotated[Path | None, typer.Option(help="Render this scene again.")] = None,
    clip: Annotated[float | None, typer.Option(help="Render a clip of this many seconds.")] = None,
    say: Annotated[str | None, typer.Option(help="Render a clip in which this text is spoken.")] = None,
    voice: Annotated[str, typer.Option(help="Voice of espeak-ng for --say.")] = "en",
    fps: Annotated[float, typer.Option(help="Frames per second of a clip.")] = 25.0,
    output_format: Annotated[str, typer.Option("--format", help="folder or webdataset (tar shards).")] = "folder",
    shard: Annotated[int, typer.Option(min=1, help="Pictures per shard.")] = 500,
    jobs: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    sheet: Annotated[Path | None, typer.Option("--grid", help="Write a contact sheet of the first pictures.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing --grid.")] = False,
) -> None:
    """Render synthetic faces with landmarks, masks, depth, pose, expression, lighting and gaze."""
    from ..render.jobs import FORMATS, GRID_COLUMNS, GRID_ROWS, Plan, Studio, clip_of, grid, read_scene, run, write_clip
    from ..render.shards import check_what

    if output_format not in FORMATS:
        raise UsageError(f"unknown format {output_format!r}; choose from {', '.join(FORMATS)}")
    if scene is not None and (clip is not None or say is not None):
        raise UsageError("--scene renders one picture; it cannot be combined with --clip or --say")
    plan = Plan(
        model=model,
        size=size,
        seed=seed,
        count=n,
        what=check_what(what.split(",")),
        output=str(output),
        format=output_format,
        shard=shard,
        people=people,
        effects=not clean,
        backgrounds=None if backgrounds is None else str(backgrounds),
    )
    if scene is not None:
        plan = replace(plan, count=1, lines=(read_scene(scene).to_json(),))
    frames = None
    if clip is not None or say is not None:
        frames = clip_of(plan, clip, say, voice, fps)
        if frames.speech is not None and frames.speech.sound is None:
            typer.echo("espeak-ng is not installed: the lips follow rules for letters, and there is no sound")
        plan = replace(plan, count=len(frames.scenes), lines=tuple(frame.to_json() for frame in frames.scenes))
    with bar(output.name) as advance:
        made = run(plan, jobs=jobs, resume=resume, progress=advance)
    if frames is not None:
        write_clip(output, frames)
    typer.echo(f"{output}: {made} rendered, {plan.count - made} already there")
    if sheet is not None:
        studio = Studio(plan)
        shown = [studio.picture(i).rgb for i in range(min(plan.count, GRID_COLUMNS * GRID_ROWS))]
        save_rgb(grid(shown), sheet, overwrite=overwrite)
