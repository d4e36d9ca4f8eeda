"""SVFR: films of faces restored, coloured and completed by one network, which a task vector tells what to do.

Paper: Wang, Chen, Xu, et al., "SVFR: A Unified Framework for Generalized Video Face Restoration" (2025, arXiv
2501.01235). Stable Video Diffusion's network sees beside the noisy latents those of the damaged frames and of one
reference frame; three bits take the place of its rates and motion (task embedding, section 3.2); 49 tokens of a face
recogniser's last map that of its picture. A film is first restored in part and without a reference; a frame of the
result then is the reference for all of it (self-referred refinement, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....geometry.templates import template_points
from ....nn.diffusion import guided
from ....nn.edm import Preconditioning, euler_step, karras_sigmas
from ....nn.iresnet import IRESNET_BLOCKS, IResNetStages
from ....nn.kl import SCALE, kl_layout
from ....nn.sd import SDLayout
from ....nn.svd import FilmAutoencoder, FilmNoise, SVDUNet, films_of
from ....tasks.card import Preprocess
from ...base import System
from ...recognise.alignment import aligned
from .windows import Store, Windows, averaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ....nn.vq import VQLayout

FilmTask = Literal["restore", "colourise", "inpaint"]
TASKS: tuple[FilmTask, ...] = get_args(FilmTask)
"""In the order of the task vector."""
DEFAULT_SEED = 77
_RECOGNISED, _LOST = 112, 255
_CONDITIONING = Preconditioning.velocity()


@dataclass(frozen=True)
class SVFRConfig:
    """Shape of the network; the defaults are the published ones.

    size: side of the crop. unet: of the denoiser, three latents in. first_width, first_multipliers: of the
    auto-encoder. recogniser, recogniser_widths: of the stages whose last map becomes the tokens of the person.

    window, overlap, overlapping, wrap: as in `windows.Windows`. steps: of the film, first_steps of its part without a
    reference; lowest, highest: σ of sampling. guidance: away from no person and no reference. parity: whether the
    recogniser sees the upper left of an enlarged face, as released (a slip, it seems), instead of the face.
    """

    size: int = 512
    unet: SDLayout = field(default_factory=lambda: SDLayout.sd2(12))
    first_width: int = 128
    first_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    recogniser: tuple[int, ...] = IRESNET_BLOCKS["iresnet100"]
    recogniser_widths: tuple[int, ...] = (64, 128, 256, 512)
    window: int = 16
    overlap: int = 3
    overlapping: int = 3
    wrap: bool = False
    steps: int = 30
    first_steps: int = 50
    lowest: float = 0.002
    highest: float = 700.0
    guidance: float = 2.0
    parity: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.unet, dict):  # as JSON has it
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.unet.items()}
            object.__setattr__(self, "unet", SDLayout(**given))
        if self.unet.c_in != 3 * self.unet.c_out:
            raise UsageError("SVFR's U-Net takes a noisy latent, that of the damaged frame and that of a reference")

    @classmethod
    def release(cls) -> Self:
        """As the released code runs: windows that wrap, and its crop for the recogniser."""
        return cls(wrap=True, parity=True)

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and narrow parts, for experiments."""
        unet = SDLayout(12, 4, 32, (1, 2), 1, (0,), heads=0, head_width=16, tokens=32, linear=True)
        return cls(
            size=64,
            unet=unet,
            first_width=32,
            first_multipliers=(1, 1, 2),
            recogniser=(1, 1, 1, 1),
            recogniser_widths=(8, 8, 16, 16),
            window=4,
            overlap=1,
            overlapping=1,
            steps=2,
            first_steps=3,
        )

    @property
    def latents(self) -> VQLayout:
        """Of the auto-encoder."""
        return kl_layout(self.size, self.first_width, self.first_multipliers)

    @property
    def windows(self) -> Windows:
        return Windows(self.window, self.overlap, self.overlapping, self.wrap)


class PersonTokens(nn.Module):
    """A recogniser's last map (N, C, 7, 7) to tokens (N, 49, D)."""

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.project1024 = nn.Conv2d(channels, tokens, 1, bias=False)
        self.final_norm = nn.LayerNorm(tokens)

    def forward(self, seen: Tensor) -> Tensor:
        tokens: Tensor = self.final_norm(self.project1024(seen).flatten(2).transpose(1, 2))
        return tokens


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Who is in a film: `latent` (4, h, w) of one frame, unscaled, and `tokens` (49, D); zeros for nobody."""

    latent: Tensor
    tokens: Tensor


class SVFR(System):
    """Restoration, colouring and completion of films of faces (arXiv 2501.01235).

    forward: damaged films (N, T, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, or pictures (N, 3, S, S) as
    films of two frames, to what the U-Net answers (N, T, 4, S/8, S/8) to `noisy` latents with noise `sigma` (N,), whose
    tasks are (N, 3) bits; of nothing, at the highest σ, and of restoring, if None. Their first frames are references.

    The recogniser and the auto-encoder are frozen.
    """

    slug: ClassVar[str] = "svfr"
    Config: ClassVar[type[SVFRConfig]] = SVFRConfig
    config: SVFRConfig

    def __init__(self, config: SVFRConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.autoencoder = FilmAutoencoder(c.latents).requires_grad_(False)
        self.unet = SVDUNet(c.unet, len(TASKS))
        self.recogniser = IResNetStages(c.recogniser, c.recogniser_widths).requires_grad_(False)
        self.person = PersonTokens(c.recogniser_widths[-1], c.unet.tokens)
        with torch.no_grad():  # the reference was added to a network for two latents
            first = self.unet.input_blocks[0]
            assert isinstance(first, nn.ModuleList)
            assert isinstance(first[0], nn.Conv2d)
            first[0].weight[:, 2 * c.unet.c_out :] = 0

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(
        self,
        damaged: Tensor,
        noisy: Tensor | None = None,
        sigma: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> Tensor:
        film = damaged[:, None].expand(-1, 2, -1, -1, -1) if damaged.dim() == 4 else damaged
        count, frames = film.shape[:2]
        given = films_of(self.encode(film.flatten(0, 1)), frames)
        tokens = self.tokens_of(film[:, 0])[:, None].expand(-1, frames, -1, -1)
        noisy = torch.zeros_like(given) if noisy is None else noisy
        sigma = torch.full((count,), self.config.highest, device=given.device) if sigma is None else sigma
        tasks = torch.tensor([[1.0, 0, 0]], device=given.device).expand(count, -1) if tasks is None else tasks
        return self.predict(noisy, given, given[:, :1].expand_as(given), tokens, sigma, tasks).answer

    # What is given

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) to unscaled latents (N, 4, S/8, S/8), their means, in full precision."""
        with torch.autocast(pictures.device.type, enabled=False):
            return self.autoencoder.encode(pictures.float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (T, 4, h, w) of consecutive frames to pictures (T, 3, S, S), bounded."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.autoencoder.decode(latents.float() / SCALE, len(latents)).clamp(-1, 1)

    def tokens_of(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) in [−1, 1] to tokens (N, 49, D) of who is on them."""
        with torch.no_grad():
            self.recogniser.eval()
            seen = self.recogniser(aligned(pictures, _RECOGNISED, self._points()))
        tokens: Tensor = self.person(seen)
        return tokens

    def _points(self) -> NDArray[np.float64] | None:
        """Where the face's points are put for the recogniser; None for its template."""
        if not self.config.parity:
            return None
        # twice as large as on 256 px, where a region of 224 px, 16 from the left, was meant; halved to 112
        return (4 * template_points("arcface", _RECOGNISED) + (15.5, -0.5)) / 2

    def reference(self, picture: Tensor) -> Reference:
        """What a frame (1, 3, S, S) says of the person, as a reference for all frames."""
        return Reference(self.encode(picture)[0], self.tokens_of(picture)[0])

    def nobody(self) -> Reference:
        """No reference at all: zeros."""
        c, device = self.config, self.device
        side = c.size // c.latents.stride
        places = (_RECOGNISED // 2 ** len(c.recogniser)) ** 2
        latent = torch.zeros(c.unet.c_out, side, side, device=device)
        return Reference(latent, torch.zeros(places, c.unet.tokens, device=device))

    # The U-Net

    def predict(
        self, noisy: Tensor, given: Tensor, reference: Tensor, tokens: Tensor, sigma: Tensor, tasks: Tensor
    ) -> FilmNoise:
        """What the U-Net answers to films of noisy scaled latents (N, T, 4, h, w) with noise σ (N,).

        Beside them unscaled latents of the damaged frames and of the reference, tokens (N, T, 49, D), tasks (N, 3).
        """
        fed, time = _CONDITIONING.fed(noisy, sigma)
        found: FilmNoise = self.unet(torch.cat([fed, given, reference], 2), time, tokens, tasks)
        return found

    def _denoised(self, noisy: Tensor, given: Tensor, who: Reference, sigma: float, tasks: Tensor) -> Tensor:
        """The scaled latents that a window (T, 4, h, w) shows; guided away from nobody, if there is anybody."""
        at = torch.full((1,), sigma, device=noisy.device)

        def asked(who: Reference) -> Tensor:
            latent, tokens = (value.to(noisy).expand(1, len(noisy), *value.shape) for value in (who.latent, who.tokens))
            answer = self.predict(noisy[None], given[None], latent, tokens, at, tasks).answer.float()
            return _CONDITIONING.denoised(answer, noisy[None], at)[0]

        found = asked(who)
        if self.config.guidance == 1 or not (who.latent.any() or who.tokens.any()):
            return found
        return guided(found, asked(self.nobody()), self.config.guidance)

    def sample(
        self, given: Tensor, who: Reference, tasks: Tensor, steps: int, generator: torch.Generator, store: Store
    ) -> Tensor:
        """Scaled latents of a film, by those of its damaged frames (T, 4, h, w), unscaled; T at least a window.

        Where the film's latents lie is up to `store`; the network never holds more than a window.
        """
        c, windows = self.config, self.config.windows
        sigmas = karras_sigmas(steps, c.lowest, c.highest)
        film, made = store.maps(len(given)), store.maps(len(given))
        for number, latent in enumerate(given):
            film[number] = SCALE * latent + sigmas[0] * torch.randn(latent.shape, generator=generator)
        for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:])):

            def change(noisy: Tensor, numbers: list[int], sigma: float = sigma, following: float = following) -> Tensor:
                noisy, own = noisy.to(self.device), given[numbers].to(self.device)
                with self.picture_autocast():
                    clean = self._denoised(noisy, own, who, sigma, tasks)
                return euler_step(noisy, clean, sigma, following).cpu()

            averaged(film, made, windows, step, change)
            film, made = made, film
        return film

    # Use on films and pictures

    @torch.inference_mode()
    def restore_film(
        self,
        frames: Iterable[NDArray[np.uint8]],
        tasks: Sequence[FilmTask] = ("restore",),
        *,
        hole: NDArray[np.bool_] | None = None,
        reference: NDArray[np.uint8] | None = None,
        seed: int | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Restored crops of a film, one for each of its crops (S, S, 3) uint8 RGB, as many at a time as a window.

        `tasks`, in any combination: "colourise" takes what colour there is; "inpaint" fills `hole` (S, S), the same in
        all frames. `reference` (S, S, 3) is a photo of the person, aligned alike; without one a frame of the film's own
        beginning is restored first and taken. Frames are read once, and latents lie in files, so that memory does not
        grow with the film.
        UsageError for unknown tasks, none, a hole without its task or a task without its hole, and crops of another
        size; at the first frame.
        """
        bits = task_vector(tasks, hole)
        c = self.config
        side = c.size // c.latents.stride
        generator = torch.Generator().manual_seed(DEFAULT_SEED if seed is None else seed)
        with Store((c.unet.c_out, side, side)) as store:
            given, count = store.collected((self._read(frame, tasks, hole) for frame in frames), c.window)
            flags = torch.tensor([bits], device=self.device)
            if reference is not None:
                who = self.reference(self.normalise(_checked(reference, c.size)[None]))
            else:
                who = self._itself(given[: c.window], flags, generator)
            film = self.sample(given, who, flags, c.steps, generator, store)
            for start in range(0, count, c.window):
                pictures = self.decode(film[start : min(start + c.window, count)].to(self.device))
                yield from _pixels(pictures)

    def _itself(self, given: Tensor, tasks: Tensor, generator: torch.Generator) -> Reference:
        """The last frame of the film's first window, restored without a reference, as its reference."""
        with Store(tuple(given.shape[1:])) as store:
            first = self.sample(given, self.nobody(), tasks, self.config.first_steps, generator, store)
            return self.reference(self.decode(first.to(self.device))[-1:])

    def _read(self, frame: NDArray[np.uint8], tasks: Sequence[FilmTask], hole: NDArray[np.bool_] | None) -> Tensor:
        """The unscaled latent (4, h, w) of a frame prepared for its tasks."""
        ready = prepared(_checked(frame, self.config.size), tasks, hole)
        return self.encode(self.normalise(ready[None]))[0].cpu()

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape, each as a film of one frame.

        `seed` draws the noise, the same for every crop. UsageError for a fidelity other than 1: there is no such dial.
        """
        if fidelity != 1:
            raise UsageError("svfr has no fidelity to choose; omit it")
        restored = np.empty_like(crops)
        for number, crop in enumerate(crops):
            (restored[number],) = self.restore_film([crop], seed=seed)
        return restored


def task_vector(tasks: Sequence[str], hole: NDArray[np.bool_] | None = None) -> list[float]:
    """The three bits of some tasks; UsageError for none, unknown ones, and holes that do not go with them."""
    if not tasks or set(tasks) - set(TASKS):
        raise UsageError(f"tasks {list(tasks)}: choose some of {', '.join(TASKS)}")
    if ("inpaint" in tasks) != (hole is not None):
        raise UsageError("the task inpaint and a hole go together; give both or neither")
    return [float(task in tasks) for task in TASKS]


def prepared(frame: NDArray[np.uint8], tasks: Sequence[FilmTask], hole: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """A frame as the network is shown it: grey for "colourise", white in the hole."""
    if "colourise" in tasks:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        frame = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)
    if hole is not None:
        if hole.shape != frame.shape[:2]:
            raise UsageError(f"the hole has shape {hole.shape}, the frame {frame.shape[:2]}")
        frame = frame.copy()
        frame[hole] = _LOST
    return frame


def hole_of(mask: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """The hole (size, size) of a grey mask: its nearest pixels, where they are exactly 255."""
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST) == _LOST)


def _checked(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if frame.shape != (size, size, 3) or frame.dtype != np.uint8:
        raise UsageError(f"frames are ({size}, {size}, 3) uint8, not {frame.shape} {frame.dtype}")
    return frame


def _pixels(pictures: Tensor) -> NDArray[np.uint8]:
    found = pictures.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.asarray(found.cpu().numpy())
