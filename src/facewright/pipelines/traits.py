"""What a face says: its age, attributes, action units and expression, or why its picture does not show them.

Of a face that is too small, turned too far, cut off or too blurred nothing is said: the networks would answer all the
same, and nobody could tell a guess from a finding. The limits are where errors on damaged validation photos grow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..geometry.crop import CropSpec
from ..tasks.declare import tasks
from .choosing import sure_faces
from .order import reading_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from ..face import AgeEstimate, Face, FaceActions, FaceAttributes, Reason
    from ..io.image import Photo
    from ..tasks.action_units import ActionReader, ActionUnitOptions, ExpressionOptions
    from ..tasks.age import AgeEstimator, AgeOptions
    from ..tasks.analyse import AnalyseOptions
    from ..tasks.attributes import AttributeOptions, AttributeReader
    from ..tasks.declare import NetworkChoice, Networks, Task

UNTOLD = (
    *("Attractive", "Big_Lips", "Big_Nose", "Blurry", "Chubby", "Double_Chin", "Male", "Oval_Face", "Pale_Skin"),
    *("Pointy_Nose", "Young"),
)
"""Attributes that are not told unless asked for: judgements of looks, which no two people share; what is no property of
the face (Blurry); sex, which a photo does not settle; and Young, of which the age says more."""
LIMITS: dict[str, float] = {
    "eye_distance": 12.0,
    "yaw": 60.0,
    "pitch": 45.0,
    "outside": 0.35,
    "blur": 0.75,
    "highlights": 25.0,
    "clipped": 0.5,
    "unevenness": 1.0,
    "skin_difference": 1e9,
}
"""Beyond these nothing is said; units as in `systems.quality.reasons.Factors`."""
_CROP = CropSpec.aligned(112, "arcface")
_LIKELY = 0.5


@dataclass(frozen=True, slots=True)
class Traits:
    """What was asked about one face; None for what was not asked, and for all where `withheld` says why."""

    age: AgeEstimate | None = None
    attributes: FaceAttributes | None = None
    actions: FaceActions | None = None
    withheld: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FaceTraits:
    """A face of a photo and what it says; `asked` names the fields of the record."""

    face: Face
    traits: Traits
    asked: tuple[str, ...]

    def line(self) -> str:
        """One line for people."""
        box = ",".join(str(round(float(v))) for v in self.face.box)
        return f"box {box}, {traits_line(self.traits, self.asked)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return self.face.to_dict() | traits_dict(self.traits, self.asked) | _calibrated(self.traits, self.asked)


class TraitReader:
    """The networks that were asked for, loaded once and used on many photos."""

    def __init__(
        self,
        age: AgeEstimator | None = None,
        attributes: AttributeReader | None = None,
        actions: ActionReader | None = None,
    ) -> None:
        self.age, self.attributes, self.actions = age, attributes, actions

    def read(self, photo: NDArray[np.uint8], faces: Sequence[Face], *, every: bool = False) -> list[Traits]:
        """What the faces of an (H, W, 3) uint8 RGB photo say, in their order; `every` adds what is in `UNTOLD`."""
        withheld = [reasons_against(photo, face) for face in faces]
        shown = [face for face, reasons in zip(faces, withheld) if not reasons]
        nothing = [None] * len(shown)
        with _seeing_once():
            ages = self.age.estimate(photo, shown) if self.age else nothing
            said = self.attributes.describe_faces(photo, shown) if self.attributes else nothing
            actions = self.actions.read_actions(photo, shown) if self.actions else nothing
        told = [each if each is None or every else _told(each) for each in said]
        found = iter(map(Traits, ages, told, actions))
        return [Traits(withheld=reasons) if reasons else next(found) for reasons in withheld]


def _seeing_once() -> AbstractContextManager[None]:
    """Networks that read a face from the first stages of the recogniser look at it once."""
    from ..systems.recognise.distilledface.stages import seeing_once

    return seeing_once()


def _told(said: FaceAttributes) -> FaceAttributes:
    """The attributes that are told without being asked for."""
    return replace(said, probabilities={k: v for k, v in said.probabilities.items() if k not in UNTOLD})


def reasons_against(photo: NDArray[np.uint8], face: Face) -> tuple[Reason, ...]:
    """What keeps a face of an (H, W, 3) uint8 RGB photo from being judged, worst first."""
    from ..systems.quality.reasons import Limits, find_reasons

    return tuple(find_reasons(_CROP.cut(photo, face), face, limits=Limits(**LIMITS)))


# --- in words and numbers ---------------------------------------------------------------------------------------------


def traits_dict(traits: Traits, asked: Iterable[str]) -> dict[str, Any]:
    """The asked fields of a record, and `withheld`."""
    fields = {
        "age": _age_numbers(traits.age),
        "attributes": _rounded(None if traits.attributes is None else traits.attributes.probabilities),
        "action_units": _unit_numbers(traits.actions),
        "expression": _likeliest(traits.actions),
        "expressions": _rounded(None if traits.actions is None else traits.actions.expressions),
    }
    return {"withheld": [str(reason) for reason in traits.withheld]} | {name: fields[name] for name in asked}


def traits_line(traits: Traits, asked: Iterable[str]) -> str:
    """The asked traits in words."""
    if traits.withheld:
        return f"nothing can be said: {', '.join(map(str, traits.withheld))}"
    words = {
        "age": _age_words(traits.age),
        "attributes": _attribute_words(traits.attributes),
        "action_units": _unit_words(traits.actions),
        "expression": _likeliest(traits.actions) or "",
    }
    return "; ".join(words[name] for name in asked if words.get(name))


def _calibrated(traits: Traits, asked: Sequence[str]) -> dict[str, bool]:
    if "age" in asked:
        return {}
    source = traits.attributes if "attributes" in asked else traits.actions
    return {"calibrated": bool(source is not None and source.calibrated)}


def _age_numbers(age: AgeEstimate | None) -> dict[str, float | None] | None:
    if age is None:
        return None
    return {name: None if v is None else round(v, 1) for name, v in zip(("years", "low", "high"), _ends(age))}


def _ends(age: AgeEstimate) -> tuple[float, float | None, float | None]:
    return age.age, age.low, age.high


def _age_words(age: AgeEstimate | None) -> str:
    if age is None:
        return ""
    return f"looks {age.age:.0f}" + ("" if age.low is None else f" ({age.low:.0f} to {age.high:.0f})")


def _rounded(values: dict[str, float] | None) -> dict[str, float] | None:
    return None if values is None else {name: round(value, 4) for name, value in values.items()}


def _attribute_words(said: FaceAttributes | None) -> str:
    if said is None:
        return ""
    true = [f"{name} {p:.0%}" for name, p in said.probabilities.items() if p >= _LIKELY]
    return ", ".join(true) or "no attribute likely"


def _unit_numbers(actions: FaceActions | None) -> dict[str, dict[str, float]] | None:
    if actions is None:
        return None
    return {
        name: {"intensity": round(unit.intensity, 2), "probability": round(unit.probability, 4)}
        for name, unit in actions.units.items()
    }


def _unit_words(actions: FaceActions | None) -> str:
    if actions is None:
        return ""
    there = [f"{name} {u.intensity:.1f}" for name, u in actions.units.items() if u.probability >= _LIKELY]
    return ", ".join(there) or "no action unit likely"


def _likeliest(actions: FaceActions | None) -> str | None:
    if actions is None or not actions.expressions:
        return None
    return max(actions.expressions, key=lambda name: actions.expressions[name])


# --- tasks ------------------------------------------------------------------------------------------------------------

EXPRESSION = ("expression", "expressions")


def load_age(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, AgeOptions], list[FaceTraits]]:
    """Detector and age estimator as a callable of photos."""
    return _reading(session, choice, ("age",), TraitReader(age=session.chosen(task, choice)))


def load_attributes(
    session: Networks, task: Task, choice: NetworkChoice
) -> Callable[[Photo, AttributeOptions], list[FaceTraits]]:
    """Detector and reader of attributes as a callable of photos."""
    return _reading(session, choice, ("attributes",), TraitReader(attributes=session.chosen(task, choice)))


def load_action_units(
    session: Networks, task: Task, choice: NetworkChoice
) -> Callable[[Photo, ActionUnitOptions], list[FaceTraits]]:
    """Detector and reader of action units as a callable of photos."""
    return _reading(session, choice, ("action_units",), TraitReader(actions=session.chosen(task, choice)))


def load_expression(
    session: Networks, task: Task, choice: NetworkChoice
) -> Callable[[Photo, ExpressionOptions], list[FaceTraits]]:
    """Detector and reader of expressions as a callable of photos."""
    return _reading(session, choice, EXPRESSION, TraitReader(actions=session.chosen(task, choice)))


def _reading(
    session: Networks, choice: NetworkChoice, asked: tuple[str, ...], reader: TraitReader
) -> Callable[[Photo, Any], list[FaceTraits]]:
    detector = session.detector(choice)

    def read(photo: Photo, options: Any) -> list[FaceTraits]:
        rgb = photo.rgb()
        faces = reading_order(sure_faces(detector.detect(rgb)))
        traits = reader.read(rgb, faces, every=getattr(options, "every", False))
        return [FaceTraits(face, said, asked) for face, said in zip(faces, traits)]

    return read


def reader_for(
    session: Networks, choice: NetworkChoice, options: AnalyseOptions
) -> tuple[TraitReader, tuple[str, ...]]:
    """What reads the traits that `options` ask for, and the fields of a record they fill."""
    table = tasks()

    def network(verb: str) -> Any:
        return session.network(table[verb].default, None, choice.device)

    reader = TraitReader(
        network("age") if options.age else None,
        network("attributes") if options.attributes else None,
        network("action_units") if options.action_units or options.expression else None,
    )
    asked = [name for name in ("age", "attributes", "action_units") if getattr(options, name)]
    return reader, (*asked, *(EXPRESSION if options.expression else ()))
