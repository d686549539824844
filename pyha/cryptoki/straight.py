"""Which functions may go the straight way, and what each of their arguments is there.

Pure data, derived from the table: a call goes straight where C can move its bytes by itself (`shim/straight.c`), and
where it concerns one member only. What each argument is says its kind; nothing here names a function.
"""

from enum import IntEnum

from pyha.cryptoki.functions import FUNCTIONS, Function, Route
from pyha.cryptoki.kinds import Kind


class Part(IntEnum):
    """What C does with one argument. The numbers are those of `shim/straight.h`."""

    SESSION = 1  # a word, replaced by the member's
    KEY = 2  # likewise
    MECHANISM = 3  # copied, and its parameter as it is
    INPUT = 4  # pointer and length: copied
    FILL = 5  # pointer and length: copied back on CKR_OK
    RESULT = 6  # pointer and pointer to its length: as much as the member says is copied back on CKR_OK


PARTS_MOST = 4
"""Arguments of a straight function at most."""

_PARTS = {
    Kind.SESSION: Part.SESSION,
    Kind.KEY: Part.KEY,
    Kind.MECHANISM: Part.MECHANISM,
    Kind.BYTES: Part.INPUT,
    Kind.FILL: Part.FILL,
    Kind.OUT_BYTES: Part.RESULT,
}
_ONCE = (Part.KEY, Part.MECHANISM)
_LAST = (Part.FILL, Part.RESULT)
_ROUTES = (Route.ANY, Route.START, Route.FINISH)


def parts_of(function: Function) -> tuple[Part, ...]:
    """What C does with each argument of a function; empty where the function goes the general way only."""
    if function.route not in _ROUTES or not all(argument.kind in _PARTS for argument in function.arguments):
        return ()
    parts = tuple(_PARTS[argument.kind] for argument in function.arguments)
    # An operation that is open knows its key; a call that is complete in itself may name several, and is rare.
    keys = parts.count(Part.KEY) and function.route is not Route.START
    if keys or len(parts) > PARTS_MOST or any(parts.count(part) > 1 for part in _ONCE):
        return ()
    if any(part in _LAST for part in parts[:-1]):
        return ()
    return parts


PARTS: tuple[tuple[Part, ...], ...] = tuple(parts_of(function) for function in FUNCTIONS)
"""For each function, by its index, what C does with its arguments."""
