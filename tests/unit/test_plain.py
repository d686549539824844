"""Our own dataclasses behave as the standard library's do."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from pyha.cryptoki import plain

Decorator = Callable[..., Any]
BOTH = pytest.mark.parametrize("own", [plain, dataclasses], ids=["plain", "dataclasses"])


def point(own: Any, **how: Any) -> Any:
    @own.dataclass(**how)
    class Point:
        unit: ClassVar[str] = "m"
        x: int
        y: int = 7
        names: list[str] = own.field(default_factory=list, hash=False)
        secret: bytes = own.field(default=b"s", repr=False)
        memory: Any = own.field(default=None, compare=False)

        def sum(self) -> int:
            return self.x + self.y

    return Point


@BOTH
@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_fields_defaults_and_what_is_shown(own: Any, frozen: bool, slots: bool) -> None:
    made = point(own, frozen=frozen, slots=slots)
    first, second = made(1), made(1, memory=5)
    assert (first.x, first.y, first.names, first.secret, first.memory, first.sum()) == (1, 7, [], b"s", None, 8)
    assert first.names is not second.names
    assert first == second
    assert first != made(2)
    assert first != point(own)(1)
    assert repr(second).endswith("Point(x=1, y=7, names=[], memory=5)")
    assert made.__match_args__ == ("x", "y", "names", "secret", "memory")
    assert made.unit == "m"
    assert hasattr(first, "__dict__") is not slots
    with pytest.raises(TypeError):
        made()
    with pytest.raises(TypeError):
        made(1, z=2)


@BOTH
def test_a_frozen_one_can_be_hashed_and_not_changed(own: Any) -> None:
    made = point(own, frozen=True, slots=True)
    assert hash(made(1)) == hash(made(1, memory=3))
    with pytest.raises(AttributeError):
        made(1).x = 2
    with pytest.raises(AttributeError):
        del made(1).x


@BOTH
def test_others_are_hashed_only_where_it_is_asked_for(own: Any) -> None:
    with pytest.raises(TypeError):
        hash(point(own)(1))
    assert len({point(own, eq=False)(1), point(own, eq=False)(1)}) == 2
    made = point(own, unsafe_hash=True, slots=True)
    assert hash(made(1)) == hash(made(1))


@pytest.mark.parametrize("replace", [plain.replace, dataclasses.replace], ids=["plain", "dataclasses"])
def test_replace_gives_another_one(replace: Callable[..., Any]) -> None:
    made = point(plain, frozen=True, slots=True)
    before = made(1, 2)
    after = replace(before, y=3)
    assert (before.y, after.y, after.x) == (2, 3, 1)
    assert type(after) is made
    with pytest.raises(TypeError):
        replace(before, z=3)


@BOTH
def test_a_class_of_a_class_has_the_fields_of_both(own: Any) -> None:
    base = point(own)

    @own.dataclass
    class More(base):  # type: ignore[misc, valid-type]
        z: int = 4

        def __repr__(self) -> str:
            return "more"

    made = More(1, z=9)
    assert (made.x, made.z, repr(made)) == (1, 9, "more")
    assert [one.name for one in own.fields(More)] == ["x", "y", "names", "secret", "memory", "z"]


@BOTH
def test_methods_of_the_class_itself_stay(own: Any) -> None:
    @own.dataclass(frozen=True)
    class One:
        x: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, One)

        def __hash__(self) -> int:
            return 5

    made: Any = One
    assert made(1) == made(2)
    assert hash(made(1)) == 5


def test_a_field_may_have_any_name() -> None:
    @plain.dataclass(frozen=True)
    class Restored:
        put: int
        default_put: int = 2
        make_put: list[int] = plain.field(default_factory=list)

    made = Restored(1)
    assert (made.put, made.default_put, made.make_put) == (1, 2, [])
