"""When is a face good: train and judge the network behind "already good" (`facewright.systems.quality.sharpness`).

    python -m reproductions.gate.fit FACES.npz [--write docs/results/gate.md] [--fit]

FACES.npz is what `python -m facewright.data.highres` packs. Sharp faces are reduced to sizes from 64 to 512 px,
damaged, and measured against their undamaged selves: a face has kept its detail when the share of its fine detail
(Laplacian energy that agrees with the truth) is above 0.6, and has lost it at 0.4 or less; between, either answer will
do. The network learns from training people and is judged on validation people.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from facewright.data.highres import open_packed
from facewright.io.atomic import atomic_output
from facewright.processors import single_threaded
from facewright.systems.quality import sharpness
from facewright.systems.quality.sharpness import MOST_SIDE, SharpnessNet, face_luma

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from facewright.data.highres import PackedFaces

    Picture = NDArray[np.uint8]
    Kinds = tuple[str, ...]

KEPT, LOST = 0.6, 0.4
KINDS: tuple[Kinds, ...] = (
    ("clean",), ("blur",), ("shrunk",), ("noise",), ("jpeg",), ("grain",), ("blur", "noise"), ("shrunk", "jpeg"),
)  # fmt: skip
SIDES = (48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 448, 512)
FILTERS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_AREA)
BATCH = 16


def damaged(image: Picture, kinds: Kinds, rng: Generator) -> Picture:
    """A copy of an (S, S, 3) picture with some kinds of damage of random strength."""
    out = image.astype(np.float32)
    if "blur" in kinds:
        out = cv2.GaussianBlur(out, (0, 0), float(np.exp(rng.uniform(np.log(0.4), np.log(4)))))
    if "shrunk" in kinds:
        side = max(8, round(len(image) / float(np.exp(rng.uniform(np.log(1.2), np.log(6))))))
        small = cv2.resize(out, (side, side), interpolation=cv2.INTER_AREA)
        out = cv2.resize(small, image.shape[1::-1], interpolation=int(rng.choice(FILTERS)))
    if "noise" in kinds:
        out = out + rng.normal(0, rng.uniform(2, 20), out.shape)
    if "grain" in kinds:
        noise = cv2.GaussianBlur(rng.standard_normal(out.shape[:2]), (0, 0), rng.uniform(0.4, 1.2))
        out = out + (noise / noise.std() * rng.uniform(2, 15))[..., None]
    if "sharpened" in kinds:
        soft = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.6, 2.0))
        out = out + rng.uniform(0.3, 1.5) * (out - soft)
    pixels = np.rint(out).clip(0, 255).astype(np.uint8)
    if "jpeg" in kinds:
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 92))])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def any_kinds(rng: Generator) -> Kinds:
    """Kinds of damage for training: none, or any that go together."""
    if rng.random() < 0.15:
        return ()
    chances = {"blur": 0.3, "shrunk": 0.35, "noise": 0.25, "grain": 0.15, "sharpened": 0.15, "jpeg": 0.45}
    return tuple(kind for kind, chance in chances.items() if rng.random() < chance)


def kept_share(picture: Picture, truth: Picture) -> float:
    """Which share of the energy of the truth's Laplacian is in a picture and agrees with the truth, 0 to 1."""
    maps = []
    for image in (picture, truth):
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        rows, columns = (slice(*(round(v * len(luma)) for v in (s.start, s.stop))) for s in sharpness.FACE)
        maps.append(cv2.Laplacian(luma, cv2.CV_32F)[rows, columns])
    there, true = maps
    agreement = float((there * true).sum())
    if agreement <= 0:
        return 0.0
    share = min(1.0, agreement / float((true**2).sum()))
    likeness = agreement**2 / float((there**2).sum() * (true**2).sum())
    return share * share * likeness if likeness < 1 else share * share


class Damaged(Dataset[tuple[torch.Tensor, float]]):
    """Face lumas (1, h, w) and how good they are, 0 for lost and 1 for kept; a batch in a row has one size."""

    def __init__(self, faces: PackedFaces, count: int, seed: int) -> None:
        self.faces, self.count, self.seed = faces, count, seed
        self.decoded: dict[int, Picture] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, float]:
        side = int(np.random.default_rng((self.seed, 1, number // BATCH)).choice(SIDES))
        rng = np.random.default_rng((self.seed, 2, number))
        truth = self._truth(int(rng.integers(len(self.faces))), side)
        picture = damaged(truth, any_kinds(rng), rng)
        if rng.random() < 0.5:
            picture, truth = (np.ascontiguousarray(p[:, ::-1]) for p in (picture, truth))
        good = float(np.clip((kept_share(picture, truth) - LOST) / (KEPT - LOST), 0, 1))
        return torch.from_numpy(face_luma(picture))[None], good

    def _truth(self, index: int, side: int) -> Picture:
        if index not in self.decoded:
            self.decoded[index] = self.faces.face(index)[0]
        return reduced(self.decoded[index], side)


def reduced(image: Picture, side: int) -> Picture:
    """A (512, 512, 3) picture at another size."""
    return image if side == MOST_SIDE else np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))


def fit(faces: PackedFaces, steps: int) -> SharpnessNet:
    """Train a network from the start; the average of its later weights is the result."""
    torch.manual_seed(0)
    net = SharpnessNet()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    data = Damaged(faces, steps * BATCH, seed=0)
    loader = DataLoader(data, BATCH, num_workers=1, worker_init_fn=single_threaded)
    recent = 0.0
    for step, (luma, good) in enumerate(loader, 1):
        loss = F.binary_cross_entropy_with_logits(net(luma), good.float())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
        recent += float(loss.detach())
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {recent / 200:.4f}", flush=True)
            recent = 0.0
    trained = average.module
    assert isinstance(trained, SharpnessNet)
    return trained


def save(net: SharpnessNet, target: Path) -> None:
    """Write the weights in half precision, completely or not at all."""
    state = {name: value.detach().half().contiguous() for name, value in net.state_dict().items()}
    with atomic_output(target, overwrite=True) as temporary:
        save_file(state, temporary)


def report(faces: PackedFaces, count: int) -> str:
    """Error rates of the shipped network by kind and size, and a reliability table, as Markdown."""
    rng = np.random.default_rng(1)
    said, kept, kinds, sides = [], [], [], []
    for number in range(count):
        image, _ = faces.face(int(rng.integers(len(faces))))
        side = MOST_SIDE if rng.random() < 0.3 else int(np.exp(rng.uniform(np.log(64), np.log(MOST_SIDE))))
        truth = reduced(image, side)
        kind = KINDS[number % len(KINDS)]
        picture = damaged(truth, kind, rng)
        said.append(sharpness.sharpness(picture))
        kept.append(kept_share(picture, truth))
        kinds.append(" and ".join(kind))
        sides.append(side)
    return tables(*(np.array(values) for values in (said, kept, kinds, sides)))


def tables(
    said: NDArray[np.float64], kept: NDArray[np.float64], kinds: NDArray[np.str_], sides: NDArray[np.int64]
) -> str:
    """The tables of `report` from probabilities, kept shares, damages and sizes, each (N,)."""
    lost, good = kept <= LOST, kept >= KEPT
    lines = [
        "| damage | lost their detail: called good | kept it: called damaged |",
        "| --- | ---: | ---: |",
    ]

    def row(name: str, chosen: NDArray[np.bool_]) -> str:
        wrong, missed = said[chosen & lost] >= sharpness.SHARP, said[chosen & good] < sharpness.SHARP
        shares = [f"{100 * e.mean():.1f} % of {len(e)}" if len(e) else "–" for e in (wrong, missed)]
        return f"| {name} | {shares[0]} | {shares[1]} |"

    lines += [row(" and ".join(kind), kinds == " and ".join(kind)) for kind in KINDS]
    for low, high in ((64, 128), (128, 256), (256, 511), (511, 513)):
        lines.append(row(f"sides {low} to {min(high, 512)} px", (sides >= low) & (sides < high)))
    lines.append(row("**all**", np.ones(len(said), bool)))
    lines += ["", "| said probability | cases | kept their detail |", "| --- | ---: | ---: |"]
    clear = lost | good
    for low in np.arange(0, 1, 0.1):
        chosen = clear & (said >= low) & (said < low + 0.1 + 1e-9)
        if chosen.any():
            lines.append(f"| {low:.1f}–{low + 0.1:.1f} | {chosen.sum()} | {100 * good[chosen].mean():.0f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and judge when a face is good.")
    parser.add_argument("faces", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--fit", action="store_true", help="train anew and write the network into the package")
    parser.add_argument("--steps", type=int, default=1600, help="of training")
    parser.add_argument("--judge", type=int, default=3000, help="faces to judge on")
    options = parser.parse_args()
    if options.fit:
        net = fit(open_packed(options.faces, "train"), options.steps)
        save(net, Path(sharpness.__file__).with_name(sharpness.WEIGHTS_FILE))
    page = report(open_packed(options.faces, "val"), options.judge)
    print(page)
    if options.write:
        head = "# When a face is already good\n\n" + (__doc__ or "").partition("\n\n")[2].rstrip() + "\n\n"
        options.write.write_text(head + page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
