"""The names and signatures others build on change only on purpose.

After a deliberate change: `python tests/test_public_surface.py` writes the snapshot anew.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("public_surface.json")

SURFACE: dict[str, tuple[str, ...]] = {
    "facewright.errors": (),
    "facewright.face": ("DegradationEstimate", "Face", "FaceCrop", "FaceQuality", "Landmarks", "Pose", "Reason"),
    "facewright.geometry.crop": ("CropSpec", "align_matrix"),
    "facewright.geometry.paste": ("face_mask", "face_patch", "paste_patch"),
    "facewright.geometry.resample": ("crop_by_matrix", "crop_face"),
    "facewright.geometry.similarity": ("fit_similarity",),
    "facewright.geometry.templates": ("template_points",),
    "facewright.io.image": ("Photo", "read", "save_rgb"),
    "facewright.io.provenance": ("Provenance", "read_provenance", "detect_watermark", "detect_face_watermark"),
    "facewright.pipelines.restore": ("FaceResult", "RestorePipeline", "RestoreResult"),
    "facewright.pipelines.analyse": ("Analyser", "FaceAnalysis", "FaceMask"),
    "facewright.pipelines.portrait": ("Portrait", "PortraitMasks", "retouch"),
    "facewright.pipelines.restore_video": ("VideoRestoreResult", "restore_video"),
    "facewright.runtime.folder": ("SaveOptions", "plan", "run"),
    "facewright.runtime.session": ("Session",),
    "facewright.systems.base": ("System",),
    "facewright.tasks.analyse": ("AnalyseOptions", "Landmarker", "Parser"),
    "facewright.tasks.declare": ("NetworkChoice", "Opt", "Shape", "Task", "get_task", "tasks"),
    "facewright.tasks.detect": ("Detector",),
    "facewright.tasks.portrait": ("PortraitOptions",),
    "facewright.tasks.quality": ("QualityEstimator",),
    "facewright.tasks.recognise": ("Embedder", "VerifyOptions"),
    "facewright.tasks.restore": ("RestoreOptions", "Restorer"),
    "facewright.tasks.synthesise": ("Generator", "SynthesiseOptions"),
    "facewright.training.trainer": ("Recipe", "Trainer", "Training"),
    "facewright.tasks.card": ("Card", "Checkpoint", "Preprocess", "cards", "get_card"),
}
"""The documented names by module; with none named, all exception classes."""


def names(module: Any, chosen: tuple[str, ...]) -> list[str]:
    errors = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Exception)]
    return sorted(chosen or errors)


def describe(value: Any) -> Any:
    if not inspect.isclass(value):
        return str(inspect.signature(value))
    found: dict[str, Any] = {"bases": [b.__name__ for b in value.__bases__ if b is not object]}
    if dataclasses.is_dataclass(value):
        found["fields"] = {f.name: str(f.type) for f in dataclasses.fields(value)}
    for name, member in sorted(vars(value).items()):
        if name.startswith("_") and name != "__call__":
            continue
        member = getattr(member, "__func__", member)
        if inspect.isfunction(member):
            found[name] = str(inspect.signature(member))
        elif isinstance(member, property) or type(member).__name__ == "cached_property":
            found[name] = "property"
    return found


def commands() -> dict[str, list[str]]:
    """Every command of the command line with its options."""
    import typer.main

    from facewright.cli.commands import app

    group: Any = typer.main.get_command(app)
    return {
        name: sorted(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        for name, command in sorted(group.commands.items())
    }


def surface() -> dict[str, Any]:
    import facewright

    top = {n: describe(getattr(facewright, n)) for n in sorted(facewright.__all__) if callable(getattr(facewright, n))}
    found: dict[str, Any] = {"facewright": {"__all__": sorted(facewright.__all__), **top}, "command line": commands()}
    for name, chosen in SURFACE.items():
        module = importlib.import_module(name)
        found[name] = {n: describe(getattr(module, n)) for n in names(module, chosen)}
    return found


def test_public_surface_is_the_agreed_one() -> None:
    expected, found = json.loads(SNAPSHOT.read_text(encoding="utf-8")), surface()
    assert list(found) == list(expected)
    for part, content in found.items():
        assert content == expected[part], f"{part} changed; if on purpose, run this file to renew the snapshot"


def test_everything_exported_exists_and_is_documented() -> None:
    import facewright

    for name in facewright.__all__:
        value = getattr(facewright, name)
        assert name == "__version__" or (value.__doc__ or "").strip(), name


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(surface(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
