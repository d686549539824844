"""Slot ids and serials that never move (SEMANTICS.md section 1)."""

from pyha.runtime.naming import group_serial, slot_id


def test_the_serial_of_the_seed() -> None:
    assert group_serial("599447001", set()) == "1599447001"


def test_a_full_serial_keeps_its_last_characters() -> None:
    assert group_serial("b8ab55ac23487d01", set()) == "18ab55ac23487d01"


def test_a_serial_that_a_token_has_is_not_taken() -> None:
    own = "18ab55ac23487d01"
    assert group_serial(own, {own}) == "28ab55ac23487d01"


def test_a_slot_id_depends_on_the_serial_alone() -> None:
    first = slot_id("1599447001", set())
    assert first == slot_id("1599447001", {first + 7})
    assert slot_id("1599447001", {first}) == first + 1
    assert 0 <= first < 2**31
