"""I-FAS: is this a real person? Yes or no, and a sentence that says why.

Paper: Zhang et al., "Interpretable Face Anti-Spoofing: Enhancing Generalization with Multimodal Large Language Models"
(AAAI 2025, arXiv 2501.01720). Neither code nor weights are public; this is a reconstruction from public notes on the
paper. A vision transformer's class tokens of *all* layers become queries of a connector (the paper's globally aware
connector), whose outputs stand before a question to a language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.clip import Block, ImageTower, TowerShape
from ....tasks.card import Preprocess
from ...base import System
from ..votes import votes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ....face import Face

QUESTION = "is this photo of a real person"
YES, NO = "yes", "no"
_STD = 0.02
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class IFASConfig:
    """size, patch, width, layers, heads: of the vision transformer; the defaults are CLIP ViT-L/14.

    connector_layers, queries, connector_heads: of the connector. words, length, language_width, language_layers,
    language_heads: of the built-in decoder, by default of the size of a 7B model. question, yes, no: token numbers.
    """

    size: int = 224
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    connector_layers: int = 2
    queries: int = 32
    connector_heads: int = 8
    words: int = 32_000
    length: int = 128
    language_width: int = 4096
    language_layers: int = 32
    language_heads: int = 32
    question: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    yes: int = 9
    no: int = 10

    @classmethod
    def compact(cls) -> Self:
        """A narrow transformer and decoder, for experiments; `words.Words` numbers their words."""
        return cls(64, 16, 48, 3, 3, 1, 4, 3, 64, 40, 32, 2, 2)


class LanguageModel(Protocol):
    """A decoder that takes embeddings, so that pictures can stand among words."""

    width: int

    def embed(self, tokens: Tensor) -> Tensor:
        """(N, T) token numbers to embeddings (N, T, width)."""
        ...

    def __call__(self, embeddings: Tensor) -> Tensor:
        """(N, T, width) to logits (N, T, words) of the token after each."""
        ...


class Decoder(nn.Module):
    """A small causal transformer whose output layer is its embedding."""

    def __init__(self, shape: TowerShape, words: int, length: int) -> None:
        super().__init__()
        self.width = shape.width
        self.embedding = nn.Embedding(words, shape.width)
        nn.init.normal_(self.embedding.weight, std=_STD)
        self.positions = nn.Parameter(_STD * torch.randn(length, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)

    def embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def forward(self, embeddings: Tensor) -> Tensor:
        if embeddings.shape[1] > len(self.positions):
            raise UsageError(f"this decoder reads {len(self.positions)} tokens at most, not {embeddings.shape[1]}")
        x = embeddings + self.positions[: embeddings.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        logits: Tensor = self.norm(x) @ self.embedding.weight.t()
        return logits


class ConnectorLayer(nn.Module):
    """Queries (N, Q, C) attend to each other, then to patches (N, P, C), then pass two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.among = nn.MultiheadAttention(width, heads, batch_first=True)
        self.across = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        own = self.norms[0](queries)
        queries = queries + self.among(own, own, own, need_weights=False)[0]
        seen = self.norms[1](patches)
        queries = queries + self.across(self.norms[2](queries), seen, seen, need_weights=False)[0]
        change: Tensor = self.mlp(self.norms[3](queries))
        return queries + change


class Connector(nn.Module):
    """Class tokens of all layers (N, L, C) and patches (N, P, C) to Q + L tokens of a language model."""

    def __init__(self, width: int, layers: int, queries: int, heads: int, language_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(_STD * torch.randn(queries, width))
        self.project = nn.Linear(width, width)
        self.layers = nn.ModuleList(ConnectorLayer(width, heads) for _ in range(layers))
        self.out = nn.Linear(width, language_width)

    def forward(self, classes: Tensor, patches: Tensor) -> Tensor:
        x = torch.cat([self.queries.expand(len(classes), -1, -1), self.project(classes)], 1)
        for layer in self.layers:
            x = layer(x, patches)
        tokens: Tensor = self.out(x)
        return tokens


class IFAS(System):
    """Liveness of a face in a single photo, with a sentence (arXiv 2501.01720).

    forward: pictures (N, 3, S, S), CLIP's mean and deviation, to logits (N, 2): yes (live), no. With `answers` (N, T),
    token numbers that begin with yes or no, the logits (N, T, words) of each of their tokens.

    Another decoder can be put in the place of `language` (see `LanguageModel`).
    """

    slug: ClassVar[str] = "ifas"
    Config: ClassVar[type[IFASConfig]] = IFASConfig
    config: IFASConfig

    def __init__(self, config: IFASConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.image = ImageTower(TowerShape(c.width, c.layers, c.heads), 1, size=c.size, patch=c.patch)
        del self.image.projection, self.image.norm_out  # the connector takes the tokens as they are
        self.connector = Connector(c.width, c.connector_layers, c.queries, c.connector_heads, c.language_width)
        shape = TowerShape(c.language_width, c.language_layers, c.language_heads, "gelu")
        self.language = Decoder(shape, c.words, c.length)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.boxed(config.size, margin=0.3), mean=_MEAN, std=_DEVIATION)

    def look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) to the class tokens behind every block (N, L, C), and the last patches (N, P, C)."""
        x, classes = self.image.tokens(pictures, after=0), []
        for block in self.image.blocks:
            x = block(x)
            classes.append(x[:, 0])
        return torch.stack(classes, 1), x[:, 1:]

    def prompt(self, pictures: Tensor) -> Tensor:
        """What stands before the answer: the picture's tokens, then the question."""
        seen = self.connector(*self.look(pictures))
        question = torch.tensor([self.config.question], device=pictures.device)
        return torch.cat([seen, self.language.embed(question).expand(len(pictures), -1, -1).to(seen.dtype)], 1)

    def forward(self, pictures: Tensor, answers: Tensor | None = None) -> Tensor:
        prompt = self.prompt(pictures)
        if answers is None:
            judged: Tensor = self.language(prompt)[:, -1][:, [self.config.yes, self.config.no]]
            return judged
        told = self.language.embed(answers[:, :-1]).to(prompt.dtype)
        logits: Tensor = self.language(torch.cat([prompt, told], 1))
        return logits[:, prompt.shape[1] - 1 :]

    @torch.inference_mode()
    def explain(self, pictures: Tensor, most: int = 24) -> Tensor:
        """(N, T) token numbers of the likeliest answers, each next token the likeliest; up to `most`.

        It is text that was learnt beside the judgement, not its cause.
        """
        prompt, answers = self.prompt(pictures), torch.zeros(len(pictures), 0, dtype=torch.long)
        for _ in range(most):
            embedded = torch.cat([prompt, self.language.embed(answers.to(prompt.device)).to(prompt.dtype)], 1)
            following = self.language(embedded)[:, -1]
            if answers.shape[1] == 0:  # the judgement is one of two words
                allowed = torch.full_like(following, -torch.inf)
                places = [self.config.yes, self.config.no]
                allowed[:, places] = following[:, places]
                following = allowed
            answers = torch.cat([answers, following.argmax(1, keepdim=True).cpu()], 1)
        return answers

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the vote (N,), 0…1, that each is live; no probability."""
        network = self.inference(torch.float32)
        return votes_of(self, photo, faces, lambda crops: network(crops).softmax(1)[:, 0])
