"""CLIPC8: categories and their words, several positives, what dark means, and what is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.systems.liveness.clipc8.categories import CATEGORIES, DARK, LIVE
from facewright.systems.liveness.clipc8.network import CLIPC8, CLIPC8Config, live_votes
from facewright.systems.liveness.clipc8.training import CLIPC8Training, contrastive
from facewright.systems.liveness.words import Words

if TYPE_CHECKING:
    from types import SimpleNamespace

SENTENCES = [sentence for category in CATEGORIES for sentence in category.sentences]


@pytest.fixture
def words() -> Words:
    return Words(SENTENCES)


@pytest.fixture
def model() -> CLIPC8:
    torch.manual_seed(0)
    return CLIPC8(CLIPC8Config.compact()).eval()


def test_categories_are_eight_and_do_not_share_a_sentence(words: Words) -> None:
    assert len(CATEGORIES) == 8
    assert len(set(SENTENCES)) == len(SENTENCES)
    assert (CATEGORIES[LIVE].action, CATEGORIES[DARK].action) == ("accept", "ask again")
    assert {c.action for i, c in enumerate(CATEGORIES) if i not in (LIVE, DARK)} == {"reject"}
    assert words.count <= CLIPC8Config.compact().words
    tokens = words(["A face on paper!", "a zebra"], 8)
    assert tokens.shape == (2, 8)
    assert tokens[0].argmax() == 4  # the largest number ends the text
    assert int(tokens[1, 1]) == 1  # a word nobody described
    with pytest.raises(UsageError, match="1 to 3 words"):
        words(["one two three four"], 4)


def test_full_size_is_vit_b_16() -> None:
    with torch.device("meta"):
        full = CLIPC8()
    assert sum(p.numel() for p in full.parameters()) == 149_620_737


def test_every_sentence_weighs_alike(model: CLIPC8, words: Words) -> None:
    captions = [words(category.sentences, 16) for category in CATEGORIES]
    model.describe_categories(captions)
    with torch.no_grad():
        units = F.normalize(model.text(captions[2]), dim=1)
    torch.testing.assert_close(model.described[2], F.normalize(units.mean(0), dim=0))
    assert model.described.norm(dim=1).allclose(torch.ones(8))
    with pytest.raises(UsageError, match="8 categories"):
        model.describe_categories(captions[:3])


def test_several_positives_by_hand() -> None:
    fit = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 3.0]], requires_grad=True)
    kinds = torch.tensor([1, 1, 4])
    loss = contrastive(fit, kinds, kinds)
    first = float(np.log(2 + np.exp(-2.0)))  # two pictures and sentences share category 1
    last = float(np.log(1 + 2 * np.exp(-3.0)))
    assert loss.item() == pytest.approx((2 * first + last) / 3)
    loss.backward()
    assert fit.grad is not None
    assert float(fit.grad[0, 1]) == pytest.approx(float(fit.grad[0, 0]))  # no false negative off the diagonal
    assert float(fit.grad[0, 2]) > 0 > float(fit.grad[0, 1])
    with pytest.raises(UsageError, match="no sentence of the batch"):
        contrastive(fit, kinds, torch.tensor([0, 0, 0]))


def test_dark_is_neither_live_nor_an_attack() -> None:
    logits = torch.zeros(2, 8)
    logits[1, DARK] = 9.0
    assert live_votes(logits).tolist() == pytest.approx([1 / 7, 1 / 7])


def test_votes_need_categories(model: CLIPC8, words: Words, fakes: SimpleNamespace) -> None:
    photo, face = fakes.textured(200, 240), fakes.face_at((90, 80), 20.0)
    with pytest.raises(UsageError, match="never described"):
        model.live(photo, [face])
    model.describe_categories([words(category.sentences, 16) for category in CATEGORIES])
    votes = model.live(photo, [face, face])
    assert votes[0] == pytest.approx(votes[1])
    assert 0 < votes[0] < 1


@pytest.mark.parametrize(("loss", "silent"), [("contrastive", {"scale"}), ("prompts", {"scale", "text"})])
def test_what_is_trained(model: CLIPC8, words: Words, loss: str, silent: set[str]) -> None:
    model.describe_categories([words(category.sentences, 16) for category in CATEGORIES])
    task = CLIPC8Training(model.train(), loss=loss, frozen=1)  # type: ignore[arg-type]
    kinds = torch.tensor([0, 1, 2, 0])
    batch = {
        "image": torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8),
        "category": kinds,
        "caption": words([CATEGORIES[int(k)].sentences[0] for k in kinds], 16),
        "caption_category": kinds,
    }
    task.step(batch, lambda name, value: value.backward(), 0.0)
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.split(".")[0] in silent for name in moved)
    assert not any(name.startswith(("image.patch", "image.blocks.0.")) for name in moved)
    assert any(name.startswith("image.blocks.1.") for name in moved)
    assert any(name.startswith("text.") for name in moved) == (loss == "contrastive")
    with pytest.raises(UsageError, match="contrastive or prompts"):
        CLIPC8Training(model, loss="other")  # type: ignore[arg-type]
