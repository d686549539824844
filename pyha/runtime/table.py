"""One table of a parsed TOML document while it is read: gives checked values, gathers errors under their keys.

Pure; knows TOML's types and nothing of what the keys mean. After an error the reader gets the default (or an empty
value of the type), so that reading goes on and finds the next error too.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from string import ascii_letters, digits
from types import TracebackType
from typing import Any, Self, TypeVar

_Choice = TypeVar("_Choice", bound=StrEnum)
_BARE = frozenset(ascii_letters + digits + "-_")
Check = Callable[[str], str | None]
"""Takes a text; gives back what is wrong with it, or None."""


def is_bare(key: str) -> bool:
    """Does TOML let this key stand without quotes?"""
    return bool(key) and _BARE.issuperset(key)


def quoted(key: str) -> str:
    """A key as a message shows it: bare where TOML lets it be."""
    if is_bare(key):
        return key
    return '"' + key.encode("unicode_escape").decode().replace('"', '\\"') + '"'


class Table:
    """`with table:` (or `close`) ends the reading and reports the keys that nobody asked for."""

    def __init__(self, values: Mapping[str, Any], path: str, errors: list[str]) -> None:
        self._values = values
        self._path = path
        self._errors = errors
        self._asked: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def complain(self, key: str, text: str) -> None:
        """Notes an error. `key` may be a path below this table (`member[1].uri`)."""
        self._errors.append(f"{self._path}{key}: {text}")

    def has(self, key: str) -> bool:
        """Does the document state this key?"""
        self._asked.append(key)
        return key in self._values

    def names(self) -> tuple[str, ...]:
        """All keys, for a table whose keys are the operator's own."""
        return tuple(self._values)

    def _value(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        """The value, None where it is absent or of another type (which is noted). bool is not taken for a number."""
        self._asked.append(key)
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.complain(quoted(key), f"must be {what}")
            return None
        return value

    def text(self, key: str, default: str | None, check: Check | None = None, *, hint: str = "") -> str:
        """A string that `check` has nothing against. `default` None: it must be there, and `hint` says where from."""
        value = self._value(key, (str,), "a string")
        if value is None:
            if default is None and key not in self._values:
                self.complain(quoted(key), "is missing" + (f": {hint}" if hint else ""))
            return default or ""
        complaint = check(value) if check else None
        if complaint:
            self.complain(quoted(key), complaint)
            return default or ""
        return str(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._value(key, (bool,), "true or false")
        return default if value is None else bool(value)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        value = self._value(key, (int,), "a whole number")
        if value is None:
            return default
        if not least <= value <= most:
            self.complain(quoted(key), f"must be from {least} to {most}")
            return default
        return int(value)

    def seconds(self, key: str, default: float, most: float) -> float:
        """A time in seconds, above 0 and up to `most`; whole or not."""
        value = self._value(key, (int, float), "a number of seconds")
        if value is None:
            return default
        if not 0 < value <= most:  # not a number fails here too
            self.complain(quoted(key), f"must be more than 0 and at most {most:g} seconds")
            return default
        return float(value)

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        """One of the words of an enumeration."""
        words = " or ".join(f'"{word}"' for word in kind)
        value = self._value(key, (str,), words)
        if value is None:
            return default
        if value not in tuple(kind):
            self.complain(quoted(key), f"must be {words}")
            return default
        return kind(value)

    def rows(self, key: str, width: int, most: int) -> list[tuple[int, ...]]:
        """An array of arrays of `width` whole numbers from 0 to `most`. Rows that are none are noted and left out."""
        good = []
        for at, row in enumerate(self._value(key, (list,), "an array") or ()):
            numbers = isinstance(row, list) and len(row) == width and all(type(number) is int for number in row)
            if numbers and all(0 <= number <= most for number in row):
                good.append(tuple(row))
            else:
                self.complain(f"{quoted(key)}[{at}]", f"must be an array of {width} whole numbers from 0 to {most:#x}")
        return good

    def table(self, key: str) -> "Table":
        """The table of that name; an empty one where there is none."""
        value = self._value(key, (dict,), "a table")
        return Table(value or {}, f"{self._path}{quoted(key)}.", self._errors)

    def tables(self, key: str) -> list["Table"]:
        """An array of tables, as [[key]] writes it."""
        found = []
        for at, value in enumerate(self._value(key, (list,), f"an array of tables, [[{key}]]") or ()):
            path = f"{self._path}{quoted(key)}[{at}]"
            if not isinstance(value, dict):
                self._errors.append(f"{path}: must be a table")
                value = {}
            found.append(Table(value, f"{path}.", self._errors))
        return found

    def close(self) -> None:
        """Notes every key that was not asked for, with the one that is probably meant."""
        for key in self._values:
            if key not in self._asked:
                self.complain(quoted(key), f"unknown key{self._suggestion(key)}")

    def _suggestion(self, key: str) -> str:
        from difflib import get_close_matches  # only once something is wrong: the import is not cheap

        close = get_close_matches(key.replace("_", "-"), self._asked, n=1)
        return f", is {close[0]} meant?" if close else ""
