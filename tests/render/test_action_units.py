from __future__ import annotations

import pytest

from facewright.errors import UsageError
from facewright.render import ACTION_UNITS, action_units_of, expression_of


def test_a_smile_in_both_languages():
    weights = expression_of({"AU6": 3.0, "AU12": 5.0})
    assert weights == {"cheekSquint_L": 0.6, "cheekSquint_R": 0.6, "mouthSmile_L": 1.0, "mouthSmile_R": 1.0}
    assert action_units_of(weights) == {"AU6": pytest.approx(3.0), "AU12": 5.0}


def test_every_unit_survives_the_round_trip():
    for name in ACTION_UNITS:
        back = action_units_of(expression_of({name: 4.0}))
        assert back.pop(name) == pytest.approx(4.0), name
        assert not back, name


def test_one_side():
    assert expression_of({"AU12_L": 2.5}) == {"mouthSmile_L": 0.5}
    assert action_units_of({"mouthSmile_L": 0.5}) == {"AU12": 2.5}


def test_the_jaw_drops_before_it_stretches():
    assert expression_of({"AU26": 5.0}) == {"jawOpen": 0.5}
    assert action_units_of({"jawOpen": 0.25}) == {"AU26": 2.5}
    assert action_units_of({"jawOpen": 0.8}) == {"AU27": 4.0}
    assert expression_of({"AU26": 2.0, "AU27": 5.0}) == {"jawOpen": 1.0}


def test_looking_left_uses_both_eyes():
    assert expression_of({"AU61": 5.0}) == {"eyeLookOut_L": 1.0, "eyeLookIn_R": 1.0}


@pytest.mark.parametrize("name", ["AU3", "AU18_L", "AU61_L", "12"])
def test_units_without_a_shape_are_refused(name):
    with pytest.raises(UsageError, match="no blend shape"):
        expression_of({name: 1.0})


@pytest.mark.parametrize("intensity", [-0.1, 5.1, float("nan")])
def test_intensities_outside_the_scale_are_refused(intensity):
    with pytest.raises(UsageError, match="from 0 to 5"):
        expression_of({"AU1": intensity})
