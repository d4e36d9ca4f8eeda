"""SVFR: published keys and shapes, windows and their mean, tasks, references, its losses, and its traps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.geometry.templates import template_points
from facewright.nn.edm import Preconditioning, euler_step, karras_sigmas
from facewright.nn.kl import SCALE
from facewright.systems.recognise.alignment import aligned
from facewright.systems.restore.svfr.convert import import_published
from facewright.systems.restore.svfr.network import SVFR, Reference, SVFRConfig, hole_of, prepared, task_vector
from facewright.systems.restore.svfr.training import LandmarkHead, SVFRTraining, latent_regularisation, wing
from facewright.systems.restore.svfr.windows import Store, Windows, averaged, reflected
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
WIDTHS = (320, 640, 1280, 1280)


# --- published layout, written out in diffusers' names


def linear(key: str, c_in: int, c_out: int, *, bias: bool = True) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in)} | ({f"{key}.bias": (c_out,)} if bias else {})


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def conv(key: str, c_in: int, c_out: int, *side: int) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in, *(side or (3, 3))), f"{key}.bias": (c_out,)}


def res_block(key: str, c_in: int, c_out: int, time: int) -> SHAPES:
    found: SHAPES = {f"{key}.time_mixer.mix_factor": (1,)}
    for part, inner, side in (("spatial_res_block", c_in, (3, 3)), ("temporal_res_block", c_out, (3, 1, 1))):
        found |= norm(f"{key}.{part}.norm1", inner) | conv(f"{key}.{part}.conv1", inner, c_out, *side)
        found |= norm(f"{key}.{part}.norm2", c_out) | conv(f"{key}.{part}.conv2", c_out, c_out, *side)
        found |= linear(f"{key}.{part}.time_emb_proj", time, c_out) if time else {}
    return found | (conv(f"{key}.spatial_res_block.conv_shortcut", c_in, c_out, 1, 1) if c_in != c_out else {})


def feed_forward(key: str, width: int) -> SHAPES:
    return linear(f"{key}.net.0.proj", width, 8 * width) | linear(f"{key}.net.2", 4 * width, width)


def transformer(key: str, width: int) -> SHAPES:
    found = (
        norm(f"{key}.norm", width) | linear(f"{key}.proj_in", width, width) | linear(f"{key}.proj_out", width, width)
    )
    found |= {f"{key}.time_mixer.mix_factor": (1,)}
    found |= linear(f"{key}.time_pos_embed.linear_1", width, 4 * width)
    found |= linear(f"{key}.time_pos_embed.linear_2", 4 * width, width)
    for block in (f"{key}.transformer_blocks.0", f"{key}.temporal_transformer_blocks.0"):
        for name, tokens in (("attn1", width), ("attn2", 1024)):
            found |= linear(f"{block}.{name}.to_q", width, width, bias=False)
            found |= linear(f"{block}.{name}.to_k", tokens, width, bias=False)
            found |= linear(f"{block}.{name}.to_v", tokens, width, bias=False)
            found |= linear(f"{block}.{name}.to_out.0", width, width)
        for number in (1, 2, 3):
            found |= norm(f"{block}.norm{number}", width)
        found |= feed_forward(f"{block}.ff", width)
    temporal = f"{key}.temporal_transformer_blocks.0"
    return found | norm(f"{temporal}.norm_in", width) | feed_forward(f"{temporal}.ff_in", width)


def published_unet() -> SHAPES:
    found = conv("conv_in", 12, 320) | norm("conv_norm_out", 320) | conv("conv_out", 320, 4)
    for name, c_in in (("time_embedding", 320), ("add_embedding", 768)):
        found |= linear(f"{name}.linear_1", c_in, 1280) | linear(f"{name}.linear_2", 1280, 1280)
    taps, channels = [320], 320
    for level, width in enumerate(WIDTHS):
        for number in range(2):
            found |= res_block(f"down_blocks.{level}.resnets.{number}", channels, width, 1280)
            found |= transformer(f"down_blocks.{level}.attentions.{number}", width) if level < 3 else {}
            channels = width
            taps.append(width)
        if level < 3:
            found |= conv(f"down_blocks.{level}.downsamplers.0.conv", width, width)
            taps.append(width)
    for number in range(2):
        found |= res_block(f"mid_block.resnets.{number}", 1280, 1280, 1280)
    found |= transformer("mid_block.attentions.0", 1280)
    for place, width in enumerate(reversed(WIDTHS)):
        for number in range(3):
            found |= res_block(f"up_blocks.{place}.resnets.{number}", channels + taps.pop(), width, 1280)
            found |= transformer(f"up_blocks.{place}.attentions.{number}", width) if place else {}
            channels = width
        if place < 3:
            found |= conv(f"up_blocks.{place}.upsamplers.0.conv", width, width)
    return found


def published_vae() -> SHAPES:
    widths = (128, 256, 512, 512)

    def plain(key: str, c_in: int, c_out: int) -> SHAPES:
        found = {k.replace(".spatial_res_block", ""): v for k, v in res_block(key, c_in, c_out, 0).items()}
        return {k: v for k, v in found.items() if "temporal" not in k and "mixer" not in k}

    def attention(key: str) -> SHAPES:
        found = norm(f"{key}.group_norm", 512)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            found |= linear(f"{key}.{part}", 512, 512)
        return found

    found = conv("encoder.conv_in", 3, 128) | norm("encoder.conv_norm_out", 512) | conv("encoder.conv_out", 512, 8)
    found |= conv("quant_conv", 8, 8, 1, 1) | conv("decoder.conv_in", 4, 512) | norm("decoder.conv_norm_out", 128)
    found |= conv("decoder.conv_out", 128, 3) | conv("decoder.time_conv_out", 3, 3, 3, 1, 1)
    channels = 128
    for level, width in enumerate(widths):
        for number in range(2):
            found |= plain(f"encoder.down_blocks.{level}.resnets.{number}", channels, width)
            channels = width
        if level < 3:
            found |= conv(f"encoder.down_blocks.{level}.downsamplers.0.conv", width, width)
    for number in range(2):
        found |= plain(f"encoder.mid_block.resnets.{number}", 512, 512)
        found |= res_block(f"decoder.mid_block.resnets.{number}", 512, 512, 0)
    found |= attention("encoder.mid_block.attentions.0") | attention("decoder.mid_block.attentions.0")
    for place, width in enumerate(reversed(widths)):
        for number in range(3):
            found |= res_block(f"decoder.up_blocks.{place}.resnets.{number}", channels, width, 0)
            channels = width
        if place < 3:
            found |= conv(f"decoder.up_blocks.{place}.upsamplers.0.conv", width, width)
    return found


def empty(shapes: SHAPES) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def published_recogniser() -> dict[str, Tensor]:
    """A whole IResNet-100, with the layers that SVFR leaves out."""
    from facewright.nn.iresnet import iresnet

    with torch.device("meta"):
        return dict(iresnet("iresnet100").state_dict())


def test_published_parts_fit() -> None:
    unet = empty(published_unet())
    person = empty({"project1024.weight": (1024, 512, 1, 1)} | norm("final_norm", 1024))
    everything, vae = unet | person | published_recogniser(), empty(published_vae())
    with torch.device("meta"):
        model = import_published(everything, autoencoder=vae)
    assert model.config == SVFRConfig()
    # Stable Video Diffusion, and four channels more at its input
    assert sum(p.numel() for p in model.unet.parameters()) == 1_524_623_082 + 320 * 4 * 9
    assert sum(p.numel() for p in model.autoencoder.parameters()) == 97_742_847
    assert recognise_tensors(everything | {f"vae.{k}": v for k, v in vae.items()}).systems == ("svfr",)
    with torch.device("meta"), pytest.raises(WeightsError, match=r"auto-encoder \(`vae\.`\)"):
        import_published(everything)
    lacking = {
        key: value for key, value in everything.items() if key != "up_blocks.3.attentions.2.time_mixer.mix_factor"
    }
    with torch.device("meta"), pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(lacking, autoencoder=vae)


def test_the_keys_of_the_sheet() -> None:
    shapes = published_unet()
    expected: SHAPES = {
        "conv_in.weight": (320, 12, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "add_embedding.linear_1.weight": (1280, 768),
        "down_blocks.0.resnets.0.temporal_res_block.conv1.weight": (320, 320, 3, 1, 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "conv_out.weight": (4, 320, 3, 3),
    }
    assert {key: shapes.get(key) for key in expected} == expected


def test_the_reference_begins_as_nothing() -> None:
    first = SVFR(SVFRConfig.compact()).unet.input_blocks[0][0].weight  # type: ignore[index]
    assert not first[:, 8:].any()
    assert first[:, :8].any()


# --- windows


def test_windows_move_and_overlap_as_released() -> None:
    windows = Windows(wrap=True)
    starts = [[numbers[0] for numbers in windows.at(step, 32)] for step in (0, 1, 3, 5)]
    # every 13 frames in the first three steps, every 16 afterwards; three earlier in each step, modulo 16
    assert starts == [[0, 13, 26], [29, 10, 23], [23, 7], [17, 1]]
    assert windows.at(0, 32)[2] == [*range(26, 32), *range(10)]
    assert windows.at(6, 32)[0][0] == (0 - 18 % 16) % 32
    assert windows.weights() == [1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("frames", [16, 17, 31, 32, 33, 50])
def test_windows_that_do_not_wrap_cover_all_and_never_mix_the_ends(frames: int) -> None:
    windows = Windows()
    for step in range(8):
        found = windows.at(step, frames)
        assert {number for numbers in found for number in numbers} == set(range(frames))
        assert all(numbers == list(range(numbers[0], numbers[0] + 16)) for numbers in found)
    wrapped = [numbers for step in range(8) for numbers in Windows(wrap=True).at(step, frames)]
    assert frames == 16 or any({0, frames - 1} <= set(numbers) for numbers in wrapped)


def test_the_mean_of_one_window_is_what_it_made() -> None:
    film, made = torch.randn(16, 2), torch.ones(16, 2)
    averaged(film, made, Windows(overlap=0), 0, lambda values, numbers: 2 * values + numbers[3])
    assert torch.allclose(made, 2 * film + 3)


def test_overlapping_windows_are_averaged_by_their_triangles() -> None:
    windows, film, made = Windows(4, 1, 1, wrap=False), torch.zeros(7), torch.zeros(7)
    averaged(film, made, windows, 0, lambda values, numbers: values + 10 * numbers[0])
    # windows 0–3 and 3–6, weights 1 2 2 1: in frame 3 both count 1
    assert made.tolist() == [0, 0, 0, 15, 30, 30, 30]


def test_short_films_are_mirrored() -> None:
    assert reflected(5, 4) == [0, 1, 2, 3, 4]
    assert reflected(3, 8) == [0, 1, 2, 1, 0, 1, 2, 1]
    assert reflected(1, 3) == [0, 0, 0]
    with pytest.raises(UsageError, match="no frames"):
        reflected(0, 3)
    with pytest.raises(UsageError, match="cannot overlap"):
        Windows(4, 4)


def test_a_store_keeps_maps_in_files_and_takes_them_away() -> None:
    with Store((2, 3)) as store:
        film, count = store.collected((torch.full((2, 3), float(i)) for i in range(3)), 5)
        assert count == 3
        assert film[:, 0, 0].tolist() == [0, 1, 2, 1, 0]
        other = store.maps(4)
        assert not other.any()
        other[1] = 5
        assert film[1, 0, 0] == 1
        folder = Path(store._folder.name)
        assert sorted(file.stat().st_size for file in folder.iterdir()) == [4 * 6 * 4, 5 * 6 * 4]
    assert not folder.exists()


# --- the network


@pytest.fixture
def model() -> SVFR:
    torch.manual_seed(0)
    made = SVFR(SVFRConfig.compact()).eval()
    with torch.no_grad():
        for parameter in made.unet.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)
    made.precision = "fp32"
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def film(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


RESTORE = torch.tensor([[1.0, 0, 0]])


@pytest.mark.parametrize("wrap", [False, True])
@torch.no_grad()
def test_sampling_is_the_formula_of_the_sheet(model: SVFR, wrap: bool) -> None:
    """Written out again, for the whole film at once and with the windows' starts by hand."""
    model = configured(model, wrap=wrap)
    given, frames = drawn(6, 4, 16, 16), 6
    who = model.reference(drawn(1, 3, 64, 64).clamp(-1, 1))
    with Store((4, 16, 16)) as store:
        found = model.sample(given, who, RESTORE, 2, torch.Generator().manual_seed(3), store).clone()
    generator = torch.Generator().manual_seed(3)
    sigmas = karras_sigmas(2, 0.002, 700)
    noise = torch.stack([torch.randn(4, 16, 16, generator=generator) for _ in range(frames)])
    x = 0.18215 * given + sigmas[0] * noise
    # windows of 4: every 3 frames in the first step, then every 4, one earlier
    starts = {True: [[0, 3], [-1, 3]], False: [[0, 2], [0, 2]]}[wrap]
    nobody = model.nobody()
    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:])):
        total, weight = torch.zeros_like(x), torch.zeros(frames)
        for start in starts[step]:
            numbers = [(start + i) % frames for i in range(4)]
            at = torch.tensor([sigma])
            answers = []
            for reference in (who, nobody):
                latent = reference.latent.expand(1, 4, -1, -1, -1)
                tokens = reference.tokens.expand(1, 4, -1, -1)
                answer = model.predict(x[None, numbers], given[None, numbers], latent, tokens, at, RESTORE).answer
                answers.append(Preconditioning.velocity().denoised(answer, x[None, numbers], at)[0])
            clean = answers[1] + 2 * (answers[0] - answers[1])
            after = euler_step(x[numbers], clean, sigma, following)
            for i, number in enumerate(numbers):
                total[number] += min(i + 1, 4 - i) * after[i]
                weight[number] += min(i + 1, 4 - i)
        x = total / weight.view(-1, 1, 1, 1)
    assert torch.allclose(found, x, atol=1e-3, rtol=1e-3)
    assert x.std() > 0.01


def configured(model: SVFR, **changes: Any) -> SVFR:
    """The same weights under another configuration."""
    other = SVFR(replace(model.config, **changes)).eval()
    other.load_state_dict(model.state_dict())
    other.precision = "fp32"
    return other


@torch.no_grad()
def test_the_network_never_sees_more_than_a_window(model: SVFR, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, decoded, tasks = [], [], []
    forward, decode = model.unet.forward, model.autoencoder.decode

    def watched(x: Tensor, time: Tensor, tokens: Tensor, flags: Tensor) -> Any:
        seen.append(x.shape[1])
        tasks.append(flags.tolist()[0])
        return forward(x, time, tokens, flags)

    def watched_decoder(latents: Tensor, frames: int) -> Tensor:
        decoded.append(frames)
        return decode(latents, frames)

    monkeypatch.setattr(model.unet, "forward", watched)
    monkeypatch.setattr(model.autoencoder, "decode", watched_decoder)
    frames = film(11)
    found = list(model.restore_film(frames, ["restore", "colourise"]))
    assert len(found) == 11
    assert set(seen) == {4}
    assert max(decoded) == 4
    assert all(bits == [1, 1, 0] for bits in tasks)


def test_films_are_repeatable_whatever_their_length(model: SVFR) -> None:
    frames = film(5)
    found = np.stack(list(model.restore_film(iter(frames))))
    assert (found.shape, found.dtype) == (frames.shape, np.uint8)
    assert np.array_equal(found, np.stack(list(model.restore_film(frames, seed=77))))
    assert not np.array_equal(found, np.stack(list(model.restore_film(frames, seed=1))))
    assert len(list(model.restore_film(frames[:3]))) == 3
    with pytest.raises(UsageError, match="no frames"):
        list(model.restore_film([]))
    with pytest.raises(UsageError, match="frames are"):
        list(model.restore_film(frames[:, :32]))
    pictures = model.restore(frames[:2])
    assert np.array_equal(pictures[1], next(model.restore_film(frames[1:2])))
    with pytest.raises(UsageError, match="fidelity"):
        model.restore(frames[:1], fidelity=0.5)


def test_a_photo_of_the_person_or_the_film_itself_is_the_reference(
    model: SVFR, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        model.unet.input_blocks[0][0].weight[:, 8:].normal_(std=0.1)  # type: ignore[index]
    frames, taken, reference = film(5), [], model.reference

    def watched(picture: Tensor) -> Reference:
        taken.append(picture)
        return reference(picture)

    monkeypatch.setattr(model, "reference", watched)
    itself = np.stack(list(model.restore_film(frames)))
    by_photo = np.stack(list(model.restore_film(frames, reference=film(1, 5)[0])))
    assert not np.array_equal(itself, by_photo)
    own, given = taken
    assert torch.equal(given, model.normalise(film(1, 5)))
    assert own.shape == given.shape == (1, 3, 64, 64)
    # the last frame of the first window, restored without a reference: no frame of the damaged film
    assert (own - model.normalise(frames)).abs().mean((1, 2, 3)).min() > 0.01


@torch.no_grad()
def test_latents_beside_the_noisy_one_are_unscaled(model: SVFR, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = model.unet.forward

    def watched(x: Tensor, *rest: Tensor) -> Any:
        seen.append(x)
        return forward(x, *rest)

    monkeypatch.setattr(model.unet, "forward", watched)
    frames = film(4)
    list(model.restore_film(frames, reference=frames[0]))
    with_reference, without = seen[0][0], seen[1][0]
    latents = model.encode(model.normalise(frames))
    assert torch.allclose(with_reference[:, 4:8], latents, atol=1e-5)
    assert torch.allclose(with_reference[:, 8:], latents[:1].expand(4, -1, -1, -1), atol=1e-5)
    # the half that guidance goes away from keeps the damaged frames, and has no reference
    assert torch.equal(without[:, :8], with_reference[:, :8])
    assert not without[:, 8:].any()
    # pure noise at the highest σ, fed with unit spread
    assert with_reference[:, :4].std() == pytest.approx(1, abs=0.05)


def test_tasks_prepare_their_frames() -> None:
    frame, hole = film(1)[0], np.zeros((64, 64), bool)
    hole[10:20, 5:9] = True
    assert task_vector(["inpaint", "restore"], hole) == [1, 0, 1]
    assert task_vector(["colourise"]) == [0, 1, 0]
    grey = prepared(frame, ["colourise"], None)
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0] - frame @ [0.299, 0.587, 0.114]).max() < 1
    filled = prepared(frame, ["inpaint"], hole)
    assert (filled[hole] == 255).all()
    assert np.array_equal(filled[~hole], frame[~hole])
    for wrong, mask in ((["upscale"], None), ([], None), (["restore"], hole), (["inpaint"], None)):
        with pytest.raises(UsageError, match=r"choose some of|go together"):
            task_vector(wrong, mask)
    with pytest.raises(UsageError, match="the hole has shape"):
        prepared(frame, ["inpaint"], hole[:32])


def test_only_pure_white_is_a_hole() -> None:
    mask = np.full((128, 128), 254, np.uint8)
    mask[64:, :64] = 255
    hole = hole_of(mask, 64)
    assert hole[32:, :32].all()
    assert hole.sum() == 32 * 32  # nearest pixels: none between 254 and 255 is made


@torch.no_grad()
def test_the_recogniser_sees_the_face_or_as_released_a_part() -> None:
    points, arcface = template_points("ffhq", 512), template_points("arcface", 112)
    rows, columns = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    places = torch.stack([columns, rows, rows * 0])[None]
    with torch.device("meta"):
        face, part = SVFR()._points(), SVFR(SVFRConfig.release())._points()
    assert face is None
    assert part is not None
    # twice the face, moved by the half of a margin: the left eye stays in sight, the nose does not
    assert part[2] == pytest.approx([2 * arcface[2, 0] + 7.75, 2 * arcface[2, 1] - 0.25])
    assert part[2].min() > 112
    for target, chosen in ((part, part), (arcface, None)):
        x, y = np.round(target[0]).astype(int)
        seen = aligned(places, 112, chosen)[0, :2, y, x].numpy()
        assert np.linalg.norm(seen - points[0]) < 8


# --- losses


def test_regularisation_pulls_films_together_and_pushes_others_away() -> None:
    features = torch.eye(3, 5)
    alike = latent_regularisation(features, 2 * features, 0.5)
    # cosines are 1 with itself and 0 with the two others
    assert float(alike) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 2)), rel=1e-5)
    assert float(latent_regularisation(features, features.roll(1, 0), 0.5)) == pytest.approx(float(alike) + 2, rel=1e-5)
    moved = drawn(3, 5).requires_grad_()
    latent_regularisation(moved, features).backward()
    assert moved.grad is not None
    assert moved.grad.any()


def test_wing_of_known_distances() -> None:
    off = torch.tensor([0.0, 1.0, -1.0, 9.999, 10.001, 30.0], dtype=torch.float64)
    found = wing(off)
    constant = 10 - 10 * np.log(6)
    assert found.tolist() == pytest.approx(
        [0, 10 * np.log(1.5), 10 * np.log(1.5), *(found[3:5].tolist()), 30 - constant]
    )
    assert float(found[4] - found[3]) == pytest.approx(0.002, abs=2e-3)  # both halves meet


def batch(frames: int = 3) -> dict[str, Tensor]:
    rng = np.random.default_rng(1)
    found = {k: torch.from_numpy(rng.integers(0, 256, (2, frames, 64, 64, 3), np.uint8)) for k in ("lq", "hq", "other")}
    found["tasks"] = torch.tensor([[1, 0, 0], [0, 1, 0]])
    found["other_tasks"] = torch.tensor([[0, 0, 1], [1, 1, 0]])
    return found | {"landmarks": torch.rand(2, frames, 68, 2, generator=torch.Generator().manual_seed(0))}


def test_a_step_learns_network_tokens_and_head_and_leaves_the_frozen(model: SVFR) -> None:
    torch.manual_seed(0)
    training = SVFRTraining(model.train(), drop=0.0, lr=1e-3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    head = {k: v.clone() for k, v in training.head.state_dict().items()}
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: Tensor) -> None:
        loss.backward()
        optimiser.step()

    logs = training.step(batch(), update, 0.0)
    assert set(logs) == {"noise", "regularisation", "prior"}
    moved = {k.partition(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"unet", "person"}
    assert all(not torch.equal(v, head[k]) for k, v in training.head.state_dict().items())


def test_terms_can_be_left_out_and_are_weighted(model: SVFR) -> None:
    given = batch()
    few = {k: given[k] for k in ("lq", "hq", "tasks")}
    torch.manual_seed(1)
    assert set(SVFRTraining(model, regularisation=0, prior=0).losses(few)) == {"noise"}
    torch.manual_seed(1)
    single = SVFRTraining(model, prior=0, regularisation=0.01, drop=1).losses(given)["regularisation"]
    torch.manual_seed(1)
    double = SVFRTraining(model, prior=0, regularisation=0.02, drop=1).losses(given)["regularisation"]
    assert double.item() == pytest.approx(2 * single.item(), rel=1e-4)
    assert len([m for m in LandmarkHead(8).modules() if isinstance(m, nn.Linear)]) == 5


@torch.no_grad()
def test_noise_loss_of_a_perfect_answer_is_nothing(model: SVFR, monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch()
    truth = SCALE * model.encode(model.normalise(given["hq"].flatten(0, 1))).unflatten(0, (2, 3))
    shape = Preconditioning.velocity()

    def perfect(noisy: Tensor, given: Tensor, reference: Tensor, tokens: Tensor, sigma: Tensor, tasks: Tensor) -> Any:
        from facewright.nn.svd import FilmNoise

        return FilmNoise(shape.target(truth, noisy, sigma), torch.zeros(2, 3, 64, 8, 8))

    monkeypatch.setattr(model, "predict", perfect)
    losses = SVFRTraining(model, regularisation=0, prior=0).losses(given)
    assert float(losses["noise"]) < 1e-6
