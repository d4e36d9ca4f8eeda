"""Learn the statistical skin that rendered faces wear from labelled photos: `python tools/fit_skin.py DATA ICT`.

DATA is a folder with `utkface.tar` and `utkface_labels.npz`, ICT the file or folder of ICT-FaceKit. Each photo is
explained by the morphable model through its 68 landmarks, unwrapped into the skin chart where the surface is visible,
freed of its tone and of smooth shading in the logarithm, and a mean with a few principal components is fitted to what
remains, without the missing texels. What is stored are averages over all photos: a photo that decides too much of one
component is left out, and the largest share that any photo has is stored with the result.
"""

from __future__ import annotations

import argparse
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facewright.errors import ImageReadError, UsageError
from facewright.render import MorphableData, Projected, load_ict, sh_basis
from facewright.render.rasteriser import Topology, rasterise
from facewright.render.skin import ASSET, CHART, DARKEST, chart_cm, chart_of, linear_of_srgb

if TYPE_CHECKING:
    from collections.abc import Iterator

IDENTITIES = 30
COMPONENTS = 20
MOST_SHARE = 0.02
STEEPEST = 0.3  # cosine between normal and viewer below which a texel counts as unseen
OUTLIER = 0.25  # residual in the logarithm at which an observation counts half

Floats = NDArray[np.float32]
Colours = NDArray[np.uint8]


@dataclass(frozen=True)
class Texels:
    """The T texels of the chart that lie on the face, as linear functions of the model's coefficients."""

    covered: NDArray[np.bool_]
    mean: Floats
    basis: Floats
    normals: Floats


def texels(data: MorphableData) -> Texels:
    face = data.only(["face", "head", "eyeball_L", "eyeball_R"])
    landmarks = face.mean[face.landmarks68]
    chart = chart_of(face.mean, landmarks, landmarks)
    radius = np.hypot(face.mean[:, 0], face.mean[:, 2] - CHART.axis_z)
    xy = np.stack([chart[:, 0] * CHART.width, chart[:, 1] * CHART.height], -1) - 0.5
    screen = Projected(torch.from_numpy(xy)[None], torch.from_numpy(-radius)[None].float(), perspective=False)
    behind = np.abs(chart[face.triangles, 0] - 0.5).max(1) > 1
    triangles = torch.from_numpy(face.triangles[~behind])
    seen = rasterise(screen, Topology.of(triangles), CHART.height, CHART.width)
    skin = torch.from_numpy((face.triangle_part[~behind] == face.parts.index("face")).astype(np.float32))
    covered = seen.image(skin[seen.triangle][:, None])[0, 0].numpy() > 0
    inside = skin[seen.triangle] > 0

    def at_texels(values: Floats) -> Floats:
        return seen.interpolate(torch.from_numpy(np.ascontiguousarray(values)))[inside].numpy()

    basis = np.stack([at_texels(mode) for mode in (*face.identity[:IDENTITIES], *face.expression)])
    a, b, c = face.mean[face.triangles].swapaxes(0, 1)
    normals = np.zeros_like(face.mean)
    for k in range(3):
        np.add.at(normals, face.triangles[:, k], np.cross(b - a, c - a))
    normals = at_texels(normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9))
    return Texels(covered, at_texels(face.mean), basis, normals / np.linalg.norm(normals, axis=1, keepdims=True))


@dataclass(frozen=True)
class Fit:
    """A weak-perspective explanation of 68 landmarks; `affine` (2, 4) maps model points to the picture (y down)."""

    coefficients: Floats
    affine: Floats
    rotation: Floats
    error: float


def fit_landmarks(points: Floats, mean: Floats, basis: Floats, rounds: int = 6) -> Fit:
    """Pose, identity and expression by alternating least squares; contour points count little, they are rough."""
    weight = np.ones(68, np.float32)
    weight[:17] = 0.15
    stiffness = np.r_[np.full(IDENTITIES, 1.0), np.full(len(basis) - IDENTITIES, 3.0)]
    coefficients = np.zeros(len(basis), np.float32)
    size = float(np.linalg.norm(points[36] - points[45]))
    for _ in range(rounds):
        shape = mean + np.tensordot(coefficients, basis, 1)
        affine, rotation = weak_perspective(shape, points, weight)
        system = (basis @ affine[:, :3].T * weight[:, None]).reshape(len(basis), -1).T
        wanted = ((points - mean @ affine[:, :3].T - affine[:, 3]) * weight[:, None]).ravel()
        noise = 0.02 * size
        normal = system.T @ system / noise**2 + np.diag(stiffness)
        coefficients = np.linalg.solve(normal, system.T @ wanted / noise**2)
        coefficients[IDENTITIES:] = coefficients[IDENTITIES:].clip(0, 1)
    shape = mean + np.tensordot(coefficients, basis, 1)
    error = np.linalg.norm(shape @ affine[:, :3].T + affine[:, 3] - points, axis=1)[17:].mean() / size
    return Fit(coefficients.astype(np.float32), affine, rotation, float(error))


def weak_perspective(shape: Floats, points: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """The best scaled rotation and shift from (68, 3) to (68, 2), as matrix (2, 4), and the rotation (3, 3)."""
    centre, middle = (np.average(v, axis=0, weights=weight) for v in (shape, points))
    free = np.linalg.lstsq((shape - centre) * weight[:, None], (points - middle) * weight[:, None], rcond=None)[0].T
    upright = free * [[1], [-1]]
    u, values, vt = np.linalg.svd(upright, full_matrices=False)
    rows, scale = u @ vt, float(values.mean())
    matrix = scale * rows * [[1], [-1]]
    shift = middle - matrix @ centre
    rotation = np.vstack([rows, np.cross(rows[0], rows[1])])
    return np.c_[matrix, shift].astype(np.float32), rotation.astype(np.float32)


def unwrap(image: Colours, fit: Fit, surface: Texels) -> tuple[Floats, NDArray[np.bool_]]:
    """Log reflectance (T, 3) of the photo's texels, shading included, and which of them are seen."""
    points = surface.mean + np.tensordot(fit.coefficients, surface.basis, 1)
    xy = points @ fit.affine[:, :3].T + fit.affine[:, 3]
    height, width = image.shape[:2]
    facing = (surface.normals @ fit.rotation[2]) > STEEPEST
    seen = facing & (xy > 1).all(1) & (xy < [width - 2, height - 2]).all(1)
    linear = linear_of_srgb(image.astype(np.float32) / 255)
    colour = cv2.remap(linear, xy[:, 0].reshape(1, -1), xy[:, 1].reshape(1, -1), cv2.INTER_LINEAR)[0]
    return np.log(colour + DARKEST), seen & (colour.min(1) > 0.002) & (colour.max(1) < 0.98)


def without_shading(values: Floats, seen: NDArray[np.bool_], normals: Floats, mean: Floats) -> Floats:
    """The log reflectance less the smooth shading: a grey sum of spherical harmonics up to band 2 without its mean."""
    basis = sh_basis(torch.from_numpy(normals)).numpy()
    residual = (values - mean).mean(1)
    weight = seen.astype(np.float32)
    for _ in range(4):
        system = basis * weight[:, None]
        fit = np.linalg.solve(system.T @ basis + 10 * np.eye(9), system.T @ residual)
        weight = seen / (1 + ((residual - basis @ fit) / 0.15) ** 2)
    shading = basis @ fit
    return np.asarray(values - (shading - np.average(shading, weights=weight + 1e-6))[:, None], np.float32)


def robust_components(values: Floats, seen: Floats, count: int, rounds: int = 6) -> tuple[Floats, Floats, Floats]:
    """Mean (D,), components (K, D) of unit-variance scores and scores (N, K) of values (N, D).

    Missing (`seen` 0) and outlying observations are replaced by what mean and components say, round after round.
    """
    weight = seen.astype(np.float32)
    mean = (values * weight).sum(0) / weight.sum(0).clip(1)
    model = np.broadcast_to(mean, values.shape).astype(np.float32)
    for _ in range(rounds):
        weight = seen / (1 + ((values - model) / OUTLIER) ** 2)
        filled = weight * values + (1 - weight) * model
        mean = filled.mean(0)
        filled -= mean
        _, directions = np.linalg.eigh(filled @ filled.T)
        scores = directions[:, -count:][:, ::-1] * np.sqrt(len(values))
        basis = scores.T @ filled / len(values)
        model = mean + scores @ basis
    return mean, basis, scores


def photos(data: Path, most: int) -> Iterator[tuple[Colours, Floats, float]]:
    """Sharp frontal photos of grown people, as many of each group the labels name: picture, 68 landmarks, years."""
    labels = np.load(data / "utkface_labels.npz")
    yaw, pitch, roll = labels["pose_yaw_pitch_roll_deg"].T
    usable = labels["detected"] & (np.abs(yaw) < 14) & (np.abs(pitch) < 15) & (np.abs(roll) < 20)
    usable &= (labels["age_years"] >= 12) & ~labels["greyscale"].astype(bool) & (labels["faces_in_image"] == 1)
    groups = np.unique(labels["ethnicity"][labels["ethnicity"] >= 0])
    chosen: list[int] = []
    for group in groups:
        members = np.flatnonzero(usable & (labels["ethnicity"] == group))
        sharp = members[np.argsort(-labels["sharpness"][members])]
        chosen += sharp[len(sharp) // 20 :][: most // len(groups)].tolist()  # the very sharpest are noise
    wanted = {str(labels["filename"][i]): i for i in chosen}
    with tarfile.open(data / "utkface.tar") as archive:
        for member in archive:
            index = wanted.get(Path(member.name).name, wanted.get(member.name))
            file = archive.extractfile(member) if index is not None else None
            if file is None or index is None:
                continue
            image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise ImageReadError(f"{member.name} of {data} is not a picture; copy the archive again")
            yield (
                np.asarray(image[..., ::-1], np.uint8),
                labels["landmarks68"][index].astype(np.float32),
                float(labels["age_years"][index]),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("ict", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=ASSET)
    parser.add_argument("--photos", type=int, default=1200)
    arguments = parser.parse_args()
    model = load_ict(arguments.ict)
    surface = texels(model)
    landmarks = model.mean[model.landmarks68]
    at_landmarks = np.concatenate([model.identity[:IDENTITIES], model.expression])[:, model.landmarks68]
    values, seen, years, errors = [], [], [], []
    for image, points, age in photos(arguments.data, arguments.photos):
        fit = fit_landmarks(points, landmarks, at_landmarks)
        errors.append(fit.error)
        if fit.error < 0.06:
            found, visible = unwrap(image, fit, surface)
            values.append(found)
            seen.append(visible)
            years.append(age)
    print(f"{len(values)} of {len(errors)} photos fitted, median error {np.median(errors):.3f} eye distances")
    save(arguments.output, np.stack(values), np.stack(seen), np.array(years), surface, landmarks)


def _trusted(surface: Texels) -> NDArray[np.bool_]:
    """Texels (T,) that turn to the viewer and are the face's own, without hair at its sides, nostrils and lids."""
    v, u = (np.argwhere(surface.covered) + 0.5).T / [[CHART.height], [CHART.width]]
    x, y = chart_cm(np.stack([u, v], -1)).T
    inside = (x / 9.0) ** 2 + ((y - 0.6) / 9.3) ** 2 < 1
    steady = np.zeros(surface.covered.shape, np.float32)
    steady[surface.covered] = surface.normals[:, 2] > 0.35
    eroded = cv2.erode(steady, np.ones((3, 3), np.uint8))[surface.covered] > 0
    return np.asarray(inside & (eroded | (np.abs(x) > 4.5)))


def save(
    path: Path, values: Floats, seen: NDArray[np.bool_], years: Floats, surface: Texels, landmarks: Floats
) -> None:
    often = (seen.mean(0) > 0.3) & _trusted(surface)
    surface.covered[surface.covered] = often
    values, seen, normals = values[:, often], seen[:, often], surface.normals[often]
    tone = np.stack([np.median(v[s], axis=0) for v, s in zip(values, seen)])
    values -= tone[:, None]
    mean = np.zeros(values.shape[1:], np.float32)
    for _ in range(2):
        values = np.stack([without_shading(v, s, normals, mean) for v, s in zip(values, seen)])
        mean = np.stack([np.median(values[:, :, c], axis=0) for c in range(3)], -1)
    flat = values.reshape(len(values), -1)
    observed = np.repeat(seen, 3, axis=1).astype(np.float32)
    kept = np.ones(len(flat), bool)
    while True:
        centre, basis, scores = robust_components(flat[kept], observed[kept], COMPONENTS)
        share = (scores**2 / (scores**2).sum(0)).max(1)
        print(f"{kept.sum()} photos, largest share of one photo in a component {share.max():.4f}")
        if share.max() <= MOST_SHARE:
            break
        if kept.sum() * MOST_SHARE < 10:
            raise UsageError(f"{kept.sum()} photos are too few for components that hide each of them; use more")
        kept[np.flatnonzero(kept)[share > MOST_SHARE]] = False
    age = (years[kept] - 12) / 78
    design = np.c_[np.ones(len(age)), age, age**2]
    by_age = np.linalg.lstsq(design, scores, rcond=None)[0]
    deviation, axes = np.linalg.eigh(np.cov(tone[kept].T))
    axes *= np.sign(axes[0])  # towards more red, which for the first is lighter
    np.savez_compressed(
        path,
        covered=surface.covered,
        landmarks=landmarks.astype(np.float32),
        mean=centre.reshape(-1, 3).astype(np.float16),
        basis=basis.reshape(len(basis), -1, 3).astype(np.float16),
        by_age=by_age.astype(np.float32),
        tone_mean=np.median(tone[kept], axis=0).astype(np.float32),
        tone_axes=(axes * np.sqrt(deviation)).T[::-1].astype(np.float32),
        photos=np.int64(kept.sum()),
        largest_share=np.float32(share.max()),
    )
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, tone {np.exp(np.median(tone, axis=0)).round(3)}")


if __name__ == "__main__":
    main()
