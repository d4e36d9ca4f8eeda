"""The functions of all tasks; written by tools/make_api.py from the declarations in `facewright.tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .runtime.runners import run_edit, run_generate, run_pair, run_records, run_report
from .tasks.action_units import ActionUnitOptions, ExpressionOptions
from .tasks.age import AgeOptions
from .tasks.analyse import AnalyseOptions
from .tasks.attributes import AttributeOptions
from .tasks.audit import AuditOptions
from .tasks.colourise import ColouriseOptions
from .tasks.declare import NetworkChoice, paths_of
from .tasks.detect import DetectOptions
from .tasks.forensics import ForensicsOptions
from .tasks.inpaint import InpaintOptions
from .tasks.liveness import LivenessOptions
from .tasks.portrait import PortraitOptions
from .tasks.quality import QualityOptions
from .tasks.recognise import EmbedOptions, VerifyOptions
from .tasks.restore import RestoreOptions
from .tasks.synthesise import SynthesiseOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .face import Face
    from .pipelines.analyse import FaceAnalysis
    from .pipelines.audit import AuditReport
    from .pipelines.colourise import Colourised
    from .pipelines.forensics import ForensicFace
    from .pipelines.identity import FaceEmbedding, Verification
    from .pipelines.inpaint import Inpainted
    from .pipelines.liveness import JudgedFace
    from .pipelines.pages import PagesReport
    from .pipelines.portrait import Portrait
    from .pipelines.quality import RatedFace
    from .pipelines.restore import RestoreResult
    from .pipelines.restore_video import VideoRestoreResult
    from .pipelines.synthesise import Samples
    from .pipelines.traits import FaceTraits


def action_units(
    source: Any,
    *,
    model: str = "mlcr",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[FaceTraits]:
    """Detect the facial action units of each face, with intensities from 0 to 5.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = ActionUnitOptions()
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[FaceTraits] = run_records("action_units", source, options, networks)
    return result


def age(
    source: Any,
    *,
    model: str = "fpage",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[FaceTraits]:
    """Estimate the apparent age of each face, with an 80 % interval.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = AgeOptions()
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[FaceTraits] = run_records("age", source, options, networks)
    return result


def analyse(
    source: Any,
    *,
    min_score: float = 0.7,
    age: bool = False,
    attributes: bool = False,
    action_units: bool = False,
    expression: bool = False,
    model: str = "segface",
    weights: str | None = None,
    detector: str = "",
    landmarker: str = "",
    head_pose: str = "",
    device: str = "auto",
) -> list[FaceAnalysis]:
    """Analyse the faces in a photo: boxes, 68 landmarks, pose, face parts and more.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        min_score: Minimum detection score.
        age: Estimate the apparent age of each face.
        attributes: Predict attributes, such as glasses or a smile.
        action_units: Detect action units and their intensities.
        expression: Recognise the expression.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        landmarker: Places landmarks: facewarp (embedded), or a slug such as fan.
        head_pose: Measures the pose: a slug such as sixdrepnet; without, the detector or the landmarks do.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = AnalyseOptions(
        min_score=min_score, age=age, attributes=attributes, action_units=action_units, expression=expression
    )
    networks = NetworkChoice(
        model=model, weights=weights, detector=detector, landmarker=landmarker, head_pose=head_pose, device=device
    )
    result: list[FaceAnalysis] = run_records("analyse", source, options, networks)
    return result


def attributes(
    source: Any,
    *,
    every: bool = False,
    model: str = "lnet_anet",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[FaceTraits]:
    """Predict attributes of each face, such as glasses, beard or smile, with probabilities.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        every: Include subjective attributes and those a photo cannot settle, such as Attractive.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = AttributeOptions(every=every)
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[FaceTraits] = run_records("attributes", source, options, networks)
    return result


def audit(
    source: str | Path,
    output: str | Path | None = None,
    *,
    weights: str | None = None,
    gallery: str | None = None,
    key: str | None = None,
    attacker: str | None = None,
    proxy: str | None = None,
    target: str | None = None,
    generator: Literal["eigenfaces", "stylegan2"] = "eigenfaces",
    watermark: str | None = None,
    people: int = 40,
    steps: int = 300,
    epsilon: float = 4.0,
    examples: int = 0,
    seed: int = 0,
    detector: str = "",
    recogniser: str = "",
    device: str = "auto",
    overwrite: bool = False,
) -> AuditReport:
    """Attack a recogniser of your own on your own photos, and report the risk and what defences are worth.

    Args:
        source: Folder with one subfolder per person.
        output: Folder the report is written into.
        weights: Weights of the recogniser: file, folder, or name.
        gallery: Gallery whose templates are taken for leaked, instead of the photos'.
        key: Key file of an encrypted gallery.
        attacker: Folder of the attacker's own photos; without, half of the people.
        proxy: Another recogniser, which the attacker has instead of the audited one.
        target: Another recogniser, which the made faces are shown to as well.
        generator: What draws the faces made from templates.
        watermark: Weights of HiDDeN; without, no watermark is attacked.
        people: Most people that are attacked.
        steps: Training steps of the mapping from templates to faces.
        epsilon: Largest change of a pixel by the watermark attack, of 255.
        examples: Made faces to write beside the report, without names.
        seed: Same seed, same audit.
        detector: Slug of another detector.
        recogniser: Slug of another recogniser.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        overwrite: Replace outputs that exist.
    """
    options = AuditOptions(
        weights=weights,
        gallery=gallery,
        key=key,
        attacker=attacker,
        proxy=proxy,
        target=target,
        generator=generator,
        watermark=watermark,
        people=people,
        steps=steps,
        epsilon=epsilon,
        examples=examples,
        seed=seed,
    )
    networks = NetworkChoice(detector=detector, recogniser=recogniser, device=device)
    result: AuditReport = run_report("audit", source, output, options, networks, overwrite=overwrite)
    return result


def colourise(
    source: Any,
    output: str | Path | None = None,
    *,
    strength: float = 1.0,
    model: str = "ddcolor",
    weights: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Colourised:
    """Give a black-and-white photo colours; they are invented.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`; or the path of a video.
        output: Where the result is written; a video and a photo of several pages need it.
        strength: How strong the colours are, 0 to 1.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        overwrite: Replace outputs that exist.
    """
    options = ColouriseOptions(strength=strength)
    networks = NetworkChoice(model=model, weights=weights, device=device)
    result: Colourised = run_edit("colourise", source, output, options, networks, overwrite=overwrite)
    return result


def detect(
    source: Any,
    *,
    model: str = "mos",
    weights: str | None = None,
    device: str = "auto",
) -> list[Face]:
    """Find the faces in a photo: boxes, five points, pose.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = DetectOptions()
    networks = NetworkChoice(model=model, weights=weights, device=device)
    result: list[Face] = run_records("detect", source, options, networks)
    return result


def embed(
    source: Any,
    *,
    force: bool = False,
    model: str = "distilledface",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[FaceEmbedding]:
    """Compute identity embeddings of the faces in a photo or a folder of photos.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        force: Also uncertain detections, if there is no certain face.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = EmbedOptions(force=force)
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[FaceEmbedding] = run_records("embed", source, options, networks)
    return result


def expression(
    source: Any,
    *,
    model: str = "mlcr",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[FaceTraits]:
    """Recognise the expression of each face, with the probability of each of seven.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = ExpressionOptions()
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[FaceTraits] = run_records("expression", source, options, networks)
    return result


def forensics(
    source: Any,
    *,
    frames: int = 16,
    model: str = "partspectrum",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[ForensicFace]:
    """Look for signs that a face was edited, generated or morphed, and show where.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        frames: How many frames of a video are looked at, evenly spread.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = ForensicsOptions(frames=frames)
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[ForensicFace] = run_records("forensics", source, options, networks)
    return result


def inpaint(
    source: Any,
    output: str | Path | None = None,
    *,
    mask: str | None = None,
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    faces: tuple[int, ...] | None = None,
    references: str | Path | Sequence[str | Path] = (),
    prompt: str = "",
    personalise: bool = False,
    seed: int | None = None,
    watermark: bool = True,
    model: str = "facefill",
    weights: str | None = None,
    detector: str = "",
    parser: str = "",
    damage_finder: str = "",
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
) -> Inpainted:
    """Fill a hole in a photo: a box, a painted mask, glasses, the damage of a print.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`; or the path of a video.
        output: Where the result is written; a video and a photo of several pages need it.
        mask: A picture, white in the hole; or damage, or a part of faces such as glasses.
        boxes: Fill the box x0,y0,x1,y1, in pixels; repeatable.
        faces: With a mask that is a part of faces: only these, e.g. 0,2 (in reading order).
        references: Another photo of the same person, or a folder of them; repeatable. Needs the model pva.
        prompt: What to draw, in words, such as 'smiling'. Needs the model pva.
        personalise: With references: learn the person from them first, by forty steps.
        seed: Seed of the noise of models that draw any, such as pva.
        watermark: Embed an invisible watermark in filled faces.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        parser: Slug of another parser.
        damage_finder: Finds the damage of a print: printscan (embedded), or a slug such as bopbtl.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        dtype: "auto", "fp32" or "bf16".
        overwrite: Replace outputs that exist.
    """
    options = InpaintOptions(
        mask=mask,
        boxes=boxes,
        faces=faces,
        references=paths_of(references),
        prompt=prompt,
        personalise=personalise,
        seed=seed,
        watermark=watermark,
    )
    networks = NetworkChoice(
        model=model,
        weights=weights,
        detector=detector,
        parser=parser,
        damage_finder=damage_finder,
        device=device,
        dtype=dtype,
    )
    result: Inpainted = run_edit("inpaint", source, output, options, networks, overwrite=overwrite)
    return result


def liveness(
    source: Any,
    *,
    least_vote: float = 0.5,
    model: str = "livecheck",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[JudgedFace]:
    """Whether each face of a photo or video is live, a print, a screen or a mask, or cannot be told.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        least_vote: Vote (or probability) from which a face counts as live.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = LivenessOptions(least_vote=least_vote)
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[JudgedFace] = run_records("liveness", source, options, networks)
    return result


def portrait(
    source: Any,
    output: str | Path | None = None,
    *,
    background: str = "keep",
    blur: float = 0.5,
    smooth_skin: float = 0.0,
    whiten_teeth: float = 0.0,
    model: str = "segface",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
    overwrite: bool = False,
) -> Portrait:
    """Blur, remove or replace the background of a portrait, smooth skin, whiten teeth.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`; or the path of a video.
        output: Where the result is written; a video and a photo of several pages need it.
        background: keep, blur, remove, or a picture that replaces it.
        blur: Strength of the background blur.
        smooth_skin: Strength of skin smoothing.
        whiten_teeth: Strength of teeth whitening.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        overwrite: Replace outputs that exist.
    """
    options = PortraitOptions(background=background, blur=blur, smooth_skin=smooth_skin, whiten_teeth=whiten_teeth)
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: Portrait = run_edit("portrait", source, output, options, networks, overwrite=overwrite)
    return result


def quality(
    source: Any,
    *,
    model: str = "vitfiqa",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> list[RatedFace]:
    """Rate the picture of each face from 0 to 100, and say what is wrong with it.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = QualityOptions()
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: list[RatedFace] = run_records("quality", source, options, networks)
    return result


def restore(
    source: Any,
    output: str | Path | None = None,
    *,
    upscale: Literal[1, 2, 4] = 1,
    strength: float = 1.0,
    faces: tuple[int, ...] | None = None,
    skip: tuple[int, ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    points: tuple[tuple[float, float], ...] = (),
    max_faces: int | None = None,
    min_score: float = 0.7,
    force: bool = False,
    watermark: bool = True,
    hair: bool = False,
    whole: bool = False,
    grain: Literal["match", "none"] = "match",
    fidelity: float = 1.0,
    seed: int | None = None,
    relight: bool = False,
    old_photo: bool = False,
    scratches: bool = True,
    tones: bool = True,
    damage_mask: str | None = None,
    references: str | Path | Sequence[str | Path] = (),
    model: str = "facedetail",
    weights: str | None = None,
    detector: str = "",
    parser: str = "",
    recogniser: str = "",
    background: str = "",
    damage_finder: str = "",
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
) -> RestoreResult | VideoRestoreResult | PagesReport:
    """Restore the faces in a photo, a video, or everything in a folder.

    Args:
        source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`; or the path of a video.
        output: Where the result is written; a video and a photo of several pages need it.
        upscale: Enlarge the whole picture: 1, 2 or 4.
        strength: Blend with the input: 0 is the input, 1 the edited face.
        faces: Only these faces, e.g. 0,2 (in reading order; in a video, in order of appearance).
        skip: Leave these faces alone.
        boxes: Only faces inside x0,y0,x1,y1; repeatable.
        points: Only the face at x,y; repeatable.
        max_faces: Maximum number of faces, largest first.
        min_score: Minimum detection score for editing.
        force: Edit faces that would be left alone, too.
        watermark: Embed an invisible watermark in edited faces.
        hair: Edit the hair around the face, too.
        whole: Edit glasses and hair in front of the face, too.
        grain: match adds the grain of the surrounding picture to edited faces; none leaves them clean.
        fidelity: 1 stays closest to the input, 0 relies on the prior.
        seed: Seed of the generator's noise; default: the noise it was trained with.
        relight: Take lighting and colours from the restorer.
        old_photo: Repair an old print: inpaint damage, restore faded contrast, remove a colour cast.
        scratches: With --old-photo: find and inpaint scratches, folds and tears.
        tones: With --old-photo: restore faded contrast and remove a colour cast.
        damage_mask: With --old-photo: mask of the damage (white) to use instead of finding it.
        references: Another photo of the same person, or a folder of them; repeatable. Needs refldm or restorerid.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        parser: Slug of another parser.
        recogniser: Slug of another recogniser.
        background: Draws what is not a face: clean (embedded), or the slug of an enlarger such as realesrgan.
        damage_finder: Finds the damage of a print: printscan (embedded), or a slug such as bopbtl.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        dtype: "auto", "fp32" or "bf16".
        overwrite: Replace outputs that exist.
    """
    options = RestoreOptions(
        upscale=upscale,
        strength=strength,
        faces=faces,
        skip=skip,
        boxes=boxes,
        points=points,
        max_faces=max_faces,
        min_score=min_score,
        force=force,
        watermark=watermark,
        hair=hair,
        whole=whole,
        grain=grain,
        fidelity=fidelity,
        seed=seed,
        relight=relight,
        old_photo=old_photo,
        scratches=scratches,
        tones=tones,
        damage_mask=damage_mask,
        references=paths_of(references),
    )
    networks = NetworkChoice(
        model=model,
        weights=weights,
        detector=detector,
        parser=parser,
        recogniser=recogniser,
        background=background,
        damage_finder=damage_finder,
        device=device,
        dtype=dtype,
    )
    result: RestoreResult | VideoRestoreResult | PagesReport = run_edit(
        "restore", source, output, options, networks, overwrite=overwrite
    )
    return result


def synthesise(
    output: str | Path | None = None,
    *,
    count: int = 1,
    seed: int = 0,
    truncation: float = 0.7,
    model: str = "stylegan2",
    weights: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Samples:
    """Generate faces of people who do not exist; they carry an invisible watermark.

    Args:
        output: Folder the pictures are written into.
        count: Number of faces.
        seed: Same seed, same faces.
        truncation: Lower values give more average faces.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        overwrite: Replace outputs that exist.
    """
    options = SynthesiseOptions(count=count, seed=seed, truncation=truncation)
    networks = NetworkChoice(model=model, weights=weights, device=device)
    result: Samples = run_generate("synthesise", output, options, networks, overwrite=overwrite)
    return result


def verify(
    first: Any,
    second: Any,
    *,
    far: float = 0.001,
    largest: bool = False,
    force: bool = False,
    liveness: bool = False,
    model: str = "distilledface",
    weights: str | None = None,
    detector: str = "",
    device: str = "auto",
) -> Verification:
    """Compare the faces in two photos: same person, different people, or cannot tell, and why.

    Args:
        first: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.
        second: The same.
        far: False accept rate: 0.01, 0.001 or 0.0001.
        largest: If there are several faces, take the largest.
        force: Also accept faces that are too small, turned too far, uncertain or too damaged.
        liveness: The face of the second photo must be live, not a print, a screen or a mask.
        model: System; see `fw.models()`.
        weights: File, folder or name of its weights.
        detector: Slug of another detector.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
    """
    options = VerifyOptions(far=far, largest=largest, force=force, liveness=liveness)
    networks = NetworkChoice(model=model, weights=weights, detector=detector, device=device)
    result: Verification = run_pair("verify", first, second, options, networks)
    return result


__all__ = [
    "action_units",
    "age",
    "analyse",
    "attributes",
    "audit",
    "colourise",
    "detect",
    "embed",
    "expression",
    "forensics",
    "inpaint",
    "liveness",
    "portrait",
    "quality",
    "restore",
    "synthesise",
    "verify",
]
