"""I-FAS: class tokens of all layers, answers that see what is before them, the lopsided loss, filtered captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.systems.liveness.ifas.network import IFAS, NO, QUESTION, YES, IFASConfig
from facewright.systems.liveness.ifas.training import IFASTraining, filtered, lopsided, names_its_attack
from facewright.systems.liveness.words import Words

if TYPE_CHECKING:
    from types import SimpleNamespace


@pytest.fixture
def model() -> IFAS:
    torch.manual_seed(0)
    return IFAS(IFASConfig.compact()).eval()


def test_question_and_judgement_are_words_of_their_own() -> None:
    words = Words([f"{QUESTION} {YES} {NO}"])
    numbers = words([QUESTION, YES, NO], 16)
    assert (numbers[1:] > 1).sum() == 4  # yes, no, and two ends
    assert int(numbers[1, 0]) != int(numbers[2, 0])
    assert len(IFASConfig().question) == len(QUESTION.split())


def test_the_connector_sees_every_layer(model: IFAS) -> None:
    c = model.config
    pictures = torch.randn(2, 3, c.size, c.size)
    classes, patches = model.look(pictures)
    assert classes.shape == (2, c.layers, c.width)
    assert patches.shape == (2, (c.size // c.patch) ** 2, c.width)
    torch.testing.assert_close(classes[:, 0], model.image.tokens(pictures, after=1)[:, 0])
    torch.testing.assert_close(classes[:, -1], model.image.tokens(pictures)[:, 0])
    assert model.connector(classes, patches).shape == (2, c.queries + c.layers, c.language_width)
    first = classes.detach().requires_grad_()
    model(pictures)
    model.language(model.connector(first, patches))[:, -1].sum().backward()
    assert first.grad is not None
    assert bool((first.grad.abs().sum((0, 2)) > 0).all())  # also the first layers' tokens count


def test_answers_see_only_what_is_before_them(model: IFAS) -> None:
    c = model.config
    pictures = torch.randn(1, 3, c.size, c.size)
    answers = torch.tensor([[c.yes, 20, 21, 22]])
    with torch.no_grad():
        told = model(pictures, answers)
        judged = model(pictures)
        other = model(pictures, torch.tensor([[c.yes, 20, 30, 31]]))
    assert told.shape == (1, 4, c.words)
    torch.testing.assert_close(told[:, 0][:, [c.yes, c.no]], judged)  # the judgement needs no caption
    torch.testing.assert_close(told[:, :3], other[:, :3])
    assert not torch.allclose(told[:, 3], other[:, 3])


def test_an_answer_begins_with_a_judgement(model: IFAS) -> None:
    c = model.config
    pictures = torch.randn(2, 3, c.size, c.size)
    answers = model.explain(pictures, most=5)
    assert answers.shape == (2, 5)
    with torch.no_grad():
        wanted = torch.tensor([c.yes, c.no])[model(pictures).argmax(1)]
        following = model(pictures, answers)
    assert answers[:, 0].tolist() == wanted.tolist()
    assert answers[:, 3].tolist() == following[:, 3].argmax(1).tolist()
    with pytest.raises(UsageError, match="tokens at most"):
        model.explain(pictures, most=c.length)


def test_one_word_weighs_as_much_as_alpha_says() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, requires_grad=True)
    answers, lengths = torch.randint(0, 7, (2, 5)), torch.tensor([5, 3])
    each = F.cross_entropy(logits.transpose(1, 2), answers, reduction="none")
    wanted = 0.7 * each[:, 0].mean() + 0.3 * torch.cat([each[0, 1:], each[1, 1:3]]).mean()
    loss = lopsided(logits, answers, lengths)
    assert loss.item() == pytest.approx(wanted.item())
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad[1, 3:].abs().max()) == 0.0  # padding
    plain = lopsided(logits, answers, lengths, alpha=1.0)
    assert plain.item() == pytest.approx(each[:, 0].mean().item())
    assert lopsided(logits, answers, torch.tensor([1, 1])).item() == pytest.approx(each[:, 0].mean().item())
    with pytest.raises(UsageError, match="outside 0…1"):
        lopsided(logits, answers, lengths, alpha=1.5)


def test_captions_have_to_name_their_attack() -> None:
    assert names_its_attack("A man on a tablet's screen, with moire.", "replay")
    assert names_its_attack("Two printed photos.", "print")
    assert not names_its_attack("A man smiles.", "replay")
    assert not names_its_attack("A man on a screen.", "print")  # another attack's word
    assert not names_its_attack("A blueprint of a man.", "print")
    assert filtered(["a mask", "a man", "a sheet of paper"], ["mask", "mask", "print"]) == [0, 2]
    with pytest.raises(UsageError, match="no keywords of 'hologram'"):
        names_its_attack("a man", "hologram")


def test_the_transformer_stays_unless_it_is_tuned(model: IFAS) -> None:
    c = model.config
    batch = {
        "image": torch.randint(0, 256, (2, c.size, c.size, 3), dtype=torch.uint8),
        "answer": torch.tensor([[c.yes, 20, 21], [c.no, 22, 0]]),
        "length": torch.tensor([3, 2]),
    }
    for tuned in (False, True):
        model.zero_grad(set_to_none=True)
        IFASTraining(model, tune_image=tuned).step(batch, lambda name, loss: loss.backward(), 0.0)
        moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        assert moved == {"connector", "language"} | ({"image"} if tuned else set())


def test_votes_are_the_share_of_yes(model: IFAS, fakes: SimpleNamespace) -> None:
    photo, face = fakes.textured(200, 240), fakes.face_at((90, 80), 20.0)
    crop = model.preprocess.crop.cut(photo, face).image[None]
    with torch.no_grad():
        wanted = model(model.normalise(crop)).softmax(1)[:, 0]
    assert model.live(photo, [face]) == pytest.approx(wanted.numpy(), abs=1e-5)
