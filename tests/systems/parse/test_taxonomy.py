"""Classes of face parsing: swaps, conversions, and what they lose."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.systems.parse import taxonomy as tx

SETS = [tx.CELEBAMASK_19, tx.LAPA_11, tx.IBUG_14, tx.EASYPORTRAIT_9, tx.EASYPORTRAIT_FP_8, tx.EASYPORTRAIT_PS_2]


@pytest.mark.parametrize("classes", SETS)
def test_mirroring_twice_changes_nothing_and_keeps_lips(classes) -> None:
    swap = tx.mirrored(classes)
    assert [swap[i] for i in swap] == list(range(len(classes)))
    for index, name in enumerate(classes):
        partner = classes[swap[index]]
        if name[:2] in ("l_", "r_") and name != "l_lip":
            assert (partner[2:], partner[0]) == (name[2:], {"l": "r", "r": "l"}[name[0]])
        else:
            assert partner == name


def test_conversion_to_easyportrait_by_name() -> None:
    table = tx.conversion(tx.CELEBAMASK_19, tx.EASYPORTRAIT_9)
    meant = {"background": "background", "skin": "skin", "nose": "skin", "u_lip": "lips", "l_lip": "lips"}
    meant |= {"l_eye": "l_eye", "r_brow": "r_brow", "hair": "person", "mouth": "person", "eye_g": "person"}
    for source, target in meant.items():
        assert tx.EASYPORTRAIT_9[table[tx.CELEBAMASK_19.index(source)]] == target
    assert table[255] == tx.IGNORED


def test_versions_of_easyportrait_are_consistent() -> None:
    labels = np.arange(19)
    direct = tx.conversion(tx.CELEBAMASK_19, tx.EASYPORTRAIT_PS_2)[labels]
    over = tx.conversion(tx.EASYPORTRAIT_9, tx.EASYPORTRAIT_PS_2)[tx.conversion(tx.CELEBAMASK_19, tx.EASYPORTRAIT_9)]
    assert np.array_equal(direct, over[labels])
    assert direct.tolist() == [0] + [1] * 18
    parsing = tx.conversion(tx.EASYPORTRAIT_9, tx.EASYPORTRAIT_FP_8)
    assert parsing[:9].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_fourteen_classes_become_eleven() -> None:
    table = tx.conversion(tx.IBUG_14, tx.IBUG_11)
    assert table[:14].tolist() == [*range(11), 0, 0, 1]
    assert np.array_equal(tx.conversion(tx.LAPA_11, tx.LAPA_11)[:11], np.arange(11))
    with pytest.raises(UsageError, match="cannot be converted"):
        tx.conversion(tx.LAPA_11, tx.CELEBAMASK_19)
