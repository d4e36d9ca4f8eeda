"""Many pictures of made-up people: in several processes, resumable, as a folder or as shards."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from ..errors import OutputError, UsageError
from ..io.atomic import atomic_output
from ..processors import use_threads
from .backgrounds import Backgrounds
from .clips import Clip, make_clip
from .coarse import coarse_face
from .ict import load_ict
from .renderer import Renderer
from .scene import Scene, SceneSampler
from .shards import files_of, is_in_folder, shard_path, write_folder, write_shard
from .visemes import speak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from .morphable import MorphableData
    from .renderer import Rendered

FORMATS = ("folder", "webdataset")
SETTINGS = "render.json"
CLIP, SOUND = "clip.json", "speech.wav"
GRID_CELL, GRID_COLUMNS, GRID_ROWS = 192, 8, 6


@dataclass(frozen=True)
class Plan:
    """What a run makes, as plain data that can be sent to workers; `lines` are ready scenes, else they are drawn.

    `rates` replaces some of `appearance.RATES`.
    """

    model: str
    size: int
    seed: int
    count: int
    what: tuple[str, ...]
    output: str
    format: str = "folder"
    shard: int = 500
    people: int | None = None
    effects: bool = True
    backgrounds: str | None = None
    lines: tuple[str, ...] = ()
    rates: dict[str, float] | None = None

    def parts(self) -> list[range]:
        """Pictures that are written together: one by one, or a shard."""
        step = self.shard if self.format == "webdataset" else 1
        return [range(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def is_done(self, part: range) -> bool:
        folder = Path(self.output)
        if self.format == "webdataset":
            return shard_path(folder, part.start // self.shard).exists()
        return is_in_folder(folder, part.start)


class Studio:
    """Makes the pictures of a plan; every process has one."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._backgrounds = Backgrounds(plan.backgrounds) if plan.backgrounds else None

    @cached_property
    def _data(self) -> MorphableData:
        return load_model(self.plan.model)

    @cached_property
    def sampler(self) -> SceneSampler:
        plan = self.plan
        return SceneSampler(
            self._data,
            plan.seed,
            size=plan.size,
            backgrounds=self._backgrounds,
            people=plan.people,
            effects=plan.effects,
            rates=plan.rates,
        )

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self._data, backgrounds=self._backgrounds)

    def picture(self, index: int) -> Rendered:
        lines = self.plan.lines
        return self._renderer.render(Scene.from_json(lines[index]) if lines else self.sampler.scene(index))

    def write(self, part: range) -> None:
        """Make the pictures of a part and write their files."""
        folder = Path(self.plan.output)
        samples = ((index, files_of(self.picture(index), self.plan.what)) for index in part)
        if self.plan.format == "webdataset":
            write_shard(shard_path(folder, part.start // self.plan.shard), samples)
        else:
            for index, files in samples:
                write_folder(folder, index, files)


def load_model(name: str) -> MorphableData:
    """The face model of that name, "coarse", or ICT-FaceKit from a folder or file. Raises WeightsError."""
    return coarse_face() if name == "coarse" else load_ict(name)


def run(plan: Plan, *, jobs: int = 1, resume: bool = False, progress: Callable[[int, int], None] | None = None) -> int:
    """Make what a plan asks for; returns the number of pictures made now. `progress` takes (done, total) pictures.

    Each process computes on one thread; how many there are does not change a byte. Raises OutputError where the folder
    holds another run, or this one without `resume`.
    """
    _claim(plan, resume=resume)
    left = [part for part in plan.parts() if not (resume and plan.is_done(part))]
    made, done = 0, plan.count - sum(map(len, left))
    for part in _worked(plan, left, jobs):
        made += len(part)
        done += len(part)
        if progress:
            progress(done, plan.count)
    return made


def _worked(plan: Plan, parts: Sequence[range], jobs: int) -> Iterator[range]:
    if jobs <= 1 or len(parts) <= 1:
        threads = torch.get_num_threads(), cv2.getNumThreads()
        _begin(plan)
        try:
            for part in parts:
                yield _work(part)
        finally:
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(plan,)) as pool:
        futures = [pool.submit(_work, part) for part in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_studio: Studio | None = None


def _begin(plan: Plan) -> None:
    global _studio
    use_threads(1)
    _studio = Studio(plan)


def _work(part: range) -> range:
    assert _studio is not None
    _studio.write(part)
    return part


def _claim(plan: Plan, *, resume: bool) -> None:
    """Write the run's settings, or compare them with those that are there."""
    folder = Path(plan.output)
    settings = {k: v for k, v in asdict(plan).items() if k not in ("output", "count") and (k, v) != ("rates", None)}
    wanted = json.loads(json.dumps(settings))
    file = folder / SETTINGS
    if file.exists():
        if not resume:
            raise OutputError(f"{folder} holds rendered pictures already; add --resume or choose another folder")
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{file} is damaged ({error}); choose another folder") from error
        if there != wanted:
            different = sorted(k for k in wanted if not isinstance(there, dict) or there.get(k) != wanted[k])
            raise UsageError(f"{folder} was made with other settings ({', '.join(different)}); choose another folder")
        return
    with atomic_output(file, parents=True) as path:
        path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def grid(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One sheet of pictures, eight in a row."""
    cells = [np.asarray(cv2.resize(p, (GRID_CELL, GRID_CELL), interpolation=cv2.INTER_AREA)) for p in pictures]
    columns = min(GRID_COLUMNS, len(cells))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows).astype(np.uint8)


def read_scene(path: Path) -> Scene:
    """The scene in a file: the line that makes it, or the truth written with a picture. Raises UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a scene ({error})") from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not one line of JSON, as 'facewright render' writes it ({error})") from error
    return Scene.from_dict(data["scene"] if isinstance(data, dict) and "scene" in data else data)


def clip_of(plan: Plan, seconds: float | None, text: str | None, voice: str, fps: float) -> Clip:
    """The clip a plan starts with its first scene, silent or saying `text`."""
    sampler = Studio(plan).sampler
    speech = None if text is None else speak(text, voice=voice)
    names = sampler.data.expression_names
    return make_clip(sampler.scene(0), plan.seed, names, seconds=seconds, fps=fps, speech=speech)


def write_clip(folder: Path, clip: Clip) -> None:
    """What is known about the clip as a whole, and its sound."""
    truth: dict[str, Any] = {"fps": clip.fps, "blinks": [asdict(b) for b in clip.blinks]}
    sound = None
    if clip.speech is not None:
        sound = clip.speech.sound
        truth |= {"text": clip.speech.text, "source": clip.speech.source}
        truth |= {"phones": [asdict(p) for p in clip.speech.phones]}
    with atomic_output(folder / CLIP, overwrite=True) as path:
        path.write_text(json.dumps(truth, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if sound is not None:
        with atomic_output(folder / SOUND, overwrite=True) as path:
            path.write_bytes(sound)
