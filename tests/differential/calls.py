"""Calls as plain data: sessions and objects by their number, lengths and outputs by what they belong to.

A sequence of these is what hypothesis draws, shrinks and prints, and what a regression test states; `lockstep` makes
each side's own arguments of it.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class S:
    """The n-th of the open sessions, counted around; an invalid handle where none is open."""

    n: int = 0


@dataclass(frozen=True)
class Closed:
    """The handle of the session that was closed last."""


@dataclass(frozen=True)
class K:
    """The n-th object of a kind, counted around; an invalid handle where there is none. Kind "": of any kind."""

    kind: str
    n: int = 0


@dataclass(frozen=True)
class Gone:
    """The n-th handle whose object is gone."""

    n: int = 0


@dataclass(frozen=True)
class Slot:
    """The slot; an invalid one where `right` is False."""

    right: bool = True


@dataclass(frozen=True)
class Result:
    """The whole output of the operation that ended last (its function's name is C_<of>...): the other side's, where the
    key is the same, so that each verifies and decrypts what the other made. `flipped`: with one bit changed."""

    of: str
    flipped: bool = False


@dataclass(frozen=True)
class Taken:
    """The whole input of that operation."""

    of: str


@dataclass(frozen=True)
class Call:
    """One call: a function and its described arguments (`worker`), in which the above stand for what each side has.
    `makes`: the kind of the object that it makes, "" for what it is a copy of."""

    name: str
    arguments: tuple[Any, ...]
    makes: str | None = None

    def __repr__(self) -> str:
        made = "" if self.makes is None else f", makes={self.makes!r}"
        return f"Call({self.name!r}, {self.arguments!r}{made})"


@dataclass(frozen=True)
class Fork:
    """Both applications fork; what follows is called in the children."""


@dataclass(frozen=True)
class Back:
    """The children end as they are; what follows is called in the parents."""


def shortened(value: Any) -> str:
    """A call, a fault, or a value of an argument, for people: without what is long."""
    if isinstance(value, Call):
        made = "" if value.makes is None else f" makes {value.makes!r}"
        return f"{value.name}({', '.join(map(shortened, value.arguments))}){made}"
    if isinstance(value, tuple):
        return f"({', '.join(map(shortened, value))})"
    if isinstance(value, bytes) and len(value) > _LONG:
        return f"{value[:_LONG]!r}...{len(value)}"
    return repr(value)


_LONG = 16
