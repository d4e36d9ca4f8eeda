"""FaceReference: what it may change, what it must not, and how the references' pixels reach the face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.errors import UsageError
from facewright.systems.reference.facereference.network import FaceReference, FaceReferenceConfig, References

CONFIG = FaceReferenceConfig(coarse=8, fine=4, identity=6, width=16, heads=2, layers=1, decoder=8, blocks=1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def references(count: int, faces: int = 1, seed: int = 1) -> References:
    sizes = (CONFIG.coarse, 16, 16), (CONFIG.fine, 32, 32), (CONFIG.identity,)
    parts = [drawn(faces, count, *size, seed=seed + i) for i, size in enumerate(sizes)]
    return References(*parts, torch.ones(faces, count, dtype=torch.bool))


@pytest.fixture
def face() -> tuple[Tensor, Tensor, Tensor]:
    """A restored face and the maps of its damaged state."""
    return drawn(1, 3, 256, 256).clamp(-1, 1), drawn(1, CONFIG.coarse, 16, 16), drawn(1, CONFIG.fine, 32, 32)


@pytest.fixture
def network() -> FaceReference:
    """With weights that do something, unlike fresh ones."""
    torch.manual_seed(0)
    made = FaceReference(CONFIG).eval()
    with torch.no_grad():
        torch.nn.init.normal_(made.paint.weight, std=0.2)
    return made


def test_fresh_weights_change_no_pixel(face: tuple[Tensor, Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    fresh = FaceReference(CONFIG).eval()
    crop = ((face[0] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(fresh.corrected(crop, face[1], face[2], references(2)), crop)


def test_without_references_nothing_changes(network: FaceReference, face: tuple[Tensor, Tensor, Tensor]) -> None:
    found = references(2)
    assert not torch.equal(network(*face, found), face[0])
    absent = found._replace(present=torch.zeros(1, 2, dtype=torch.bool))
    assert torch.equal(network(*face, absent), face[0])


def test_order_of_references_does_not_matter(network: FaceReference, face: tuple[Tensor, Tensor, Tensor]) -> None:
    found = references(3)
    turned = References(*(part.flip(1) for part in found))
    assert torch.allclose(network(*face, found), network(*face, turned), atol=1e-5)


def test_what_stands_in_an_empty_place_does_not_matter(
    network: FaceReference, face: tuple[Tensor, Tensor, Tensor]
) -> None:
    found = references(3)
    present = torch.tensor([[True, True, False]])
    alone = References(*(part[:, :2] for part in found))
    for filler in (0.0, 100.0):
        parts = [part.clone() for part in found[:3]]
        for part in parts:
            part[:, 2] = filler
        assert torch.allclose(network(*face, References(*parts, present)), network(*face, alone), atol=1e-5)


def test_a_face_does_not_depend_on_its_neighbours(network: FaceReference, face: tuple[Tensor, Tensor, Tensor]) -> None:
    two = references(2, faces=2)
    both = network(*(torch.cat([part, part.flip(-1)]) for part in face), two)
    alone = network(*face, References(*(part[:1] for part in two)))
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_wrong_shapes_are_refused(network: FaceReference, face: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(UsageError, match="at least one reference"):
        network(*face, references(0))
    with pytest.raises(UsageError, match="takes images"):
        network(face[0][..., :128, :128], *face[1:], references(1))


def test_every_reference_is_asked(network: FaceReference, face: tuple[Tensor, Tensor, Tensor]) -> None:
    """Maps and identity of each reference move the result."""
    found = [part.requires_grad_() for part in references(2)[:3]]
    network(*face, References(*found, torch.ones(1, 2, dtype=torch.bool))).square().sum().backward()
    for part in found:
        assert part.grad is not None
        assert (part.grad.abs().flatten(2).sum(2) > 0).all()


def test_training_learns_what_only_the_identity_says() -> None:
    """Two people whose faces differ in their references' embeddings alone come out apart after a few steps."""
    torch.manual_seed(0)
    network = FaceReference(CONFIG)
    restored = torch.zeros(2, 3, 256, 256)
    maps = drawn(1, CONFIG.coarse, 16, 16), drawn(1, CONFIG.fine, 32, 32)
    found = references(1)
    both = References(*(part.expand(2, *part.shape[1:]).clone() for part in found))
    both.identity[1] *= -1
    truth = torch.stack([torch.full((3, 128, 128), level) for level in (-0.2, 0.2)])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    errors = []
    for _ in range(25):
        loss = (network.correct(restored, *maps, both) - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.5 * errors[0]
