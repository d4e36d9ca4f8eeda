"""The eight categories of CLIPC8, the sentences that describe them, and what is done about each.

The paper's abstract names four: printed photos, recaptured screens, dark surroundings, tampered identity cards. The
others, and all sentences, are choices of this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["accept", "reject", "ask again"]


@dataclass(frozen=True, slots=True)
class Category:
    """name, what is done about it, and sentences that describe a picture of it."""

    name: str
    action: Action
    sentences: tuple[str, ...]


CATEGORIES = (
    Category(
        "live",
        "accept",
        ("a real person in front of the camera", "a photo of a living face", "natural skin of a person who is there"),
    ),
    Category(
        "printed photo",
        "reject",
        ("a printed photo of a face", "a face on paper held to the camera", "the dull print of a portrait"),
    ),
    Category(
        "screen",
        "reject",
        ("a face shown on a screen", "a phone or tablet that shows a face", "stripes of a display across a face"),
    ),
    Category(
        "paper mask",
        "reject",
        ("a paper mask with holes for the eyes", "a cut out photo worn on a face", "living eyes behind printed paper"),
    ),
    Category(
        "solid mask",
        "reject",
        ("a person who wears a mask of plastic", "a mannequin head", "smooth skin of silicone without pores"),
    ),
    Category(
        "too dark",
        "ask again",
        ("a face in the dark", "too little light to see a face", "a dark room with a face in shadow"),
    ),
    Category(
        "tampered card",
        "reject",
        ("an identity card with a replaced portrait", "a card whose photo was pasted over", "a forged identity card"),
    ),
    Category(
        "altered face",
        "reject",
        ("a face altered by a computer", "a face that was swapped or blended", "a face partly covered on purpose"),
    ),
)
LIVE, DARK = 0, 5
"""Places of two categories: of what is accepted, and of what is neither live nor an attack."""
