"""Copies of plain objects, several at once: all are read, all created and all read back.

For data objects, of which a token may hold thousands, and most of whose copying is the way to the members and back.
Each goes through what it goes through by itself (`pyha.runtime.cloning`), and whatever is not at once as it should be
is done, or brought to its end, by itself. What was read waits for the others before it is created: a few of them only,
so that it is milliseconds, on a member of whatever speed.

Source: SEMANTICS.md section 5 (each step re-reads its object right before it acts).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256

from pyha.abi.series import Values
from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Template
from pyha.ha.arrays import lost
from pyha.ha.identity import identity_of
from pyha.ha.steps import Copy, Step
from pyha.runtime.cloning import (
    Copied,
    Place,
    SourceLost,
    clone,
    create_copy,
    promised_by,
    template_from,
    told_of,
)
from pyha.runtime.failover import Tried
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, at_hand, create_many, in_series
from pyha.runtime.inventory import Shown, is_record, is_replicated, shown_by
from pyha.runtime.member import MemberLost, SessionRefused
from pyha.runtime.showing import protections_of

Rest = Callable[[], Copied | None]
"""What is left of a copy, and what it came to: as `clone`."""

_MOST = 16
"""Copies at once: with more there is little to be saved, and what was read grows old."""
_LONGEST = 0.05
"""Seconds that they may take, if each takes as long as the last ones: what was read must not be old when it is made."""


class Together:
    """The copies of one resync. `look`: whether somebody makes or changes objects beside it."""

    def __init__(self, group: GroupRuntime, look: Callable[[], bool]) -> None:
        self._group = group
        self._look = look
        self._most = 1
        self._start, self._count = 0.0, 0  # of the last ones

    def begin(
        self, steps: Sequence[Step], at: int, members: Sequence[Place], void: Callable[[Copy], bool]
    ) -> list[Rest]:
        """What is left of this step, and of those after it that go with it; empty for one that goes by itself. `void`:
        whether nothing is to be done any more. Raises MemberLost (of the member that they come to), SourceLost."""
        now = self._group.clock()
        if self._count:
            fit = int(_LONGEST * self._count / (now - self._start)) if now > self._start else _MOST
            self._most = max(1, min(2 * self._most, fit, _MOST))
        copies = _alike(steps[at : at + self._most])
        self._start, self._count = now, len(copies)
        if len(copies) < 2:
            return []
        return _begun(self._group, members[copies[0].source], members[copies[0].member], copies, void, self._look)


def _alike(steps: Sequence[Step]) -> list[Copy]:
    """The first of these, and those right after it that are like it."""
    found: list[Copy] = []
    for each in steps:
        if not isinstance(each, Copy) or each.identity.object_class != ck.CKO_DATA:
            break
        if found and (each.member, each.source) != (found[0].member, found[0].source):
            break
        found.append(each)
    return found


@dataclass(slots=True)
class _Begun:
    """One that is still what it was: its number, what the copy is created with, and its C_CreateObject."""

    at: int
    copy: Copy
    template: Template
    tried: Tried | None = None


def _begun(
    group: GroupRuntime,
    source: Place,
    target: Place,
    copies: Sequence[Copy],
    void: Callable[[Copy], bool],
    look: Callable[[], bool],
) -> list[Rest]:
    """What is left of each. Raises MemberLost, SourceLost."""
    rests: list[Rest] = []
    wanted = []
    for at, copy in enumerate(copies):
        if void(copy):
            rests.append(_nothing)
        else:
            rests.append(partial(clone, group, source, copy.real, target, copy))
            wanted.append((at, copy))
    begun = []
    told = told_of(copies[0].identity)
    try:
        shown = _shown(group, source, [copy.real for _, copy in wanted], told)
    except MemberLost as loss:
        raise SourceLost(str(loss)) from None
    for (at, copy), seen in zip(wanted, shown, strict=True):
        if seen is None:
            continue
        if copy.identity.same(identity_of(seen, _hash_of(seen))):
            begun.append(_Begun(at, copy, template_from(copy, seen, {})))
        else:
            rests[at] = _nothing
    if look():
        return rests  # each reads its object again
    logins = target[1].logins
    with suppress(SearchFailed, SessionRefused):
        _create(group, target, begun)
    made = [each for each in begun if each.tried is not None]
    for each in made:
        rests[each.at] = partial(_ended, group, target, each)
    made = [each for each in made if each.tried is not None and each.tried.rv == ck.CKR_OK]
    shown = _shown(group, target, [_handle(each) for each in made], shown_by(ck.CKO_DATA))
    if target[1].logins == logins:
        for each, seen in zip(made, shown, strict=True):
            if seen is not None and _is_whole(each, seen):
                rests[each.at] = partial(_done, (_handle(each), _as_read(seen)))
    return rests


def _nothing() -> None:
    """There is nothing to be copied."""


def _done(copied: Copied) -> Copied:
    return copied


def _ended(group: GroupRuntime, target: Place, begun: _Begun) -> Copied:
    """One that is created, or was refused. Raises as `create_copy`."""
    index, connection = target
    # The one before it may have found that the login is gone, as before each call.
    if not group.log_in_member(index, connection, group.deadline()):
        raise MemberLost("its login was refused")
    return create_copy(group, target, begun.copy, begun.template, begun.tried)


def _handle(made: _Begun) -> int:
    return int(made.tried.results[0]) if made.tried is not None else 0


def _hash_of(seen: dict[int, bytes]) -> bytes | None:
    value = seen.get(ck.CKA_VALUE)
    return sha256(value).digest() if value else None


def _is_whole(made: _Begun, seen: dict[int, bytes]) -> bool:
    """Whether nothing has to be asked or said of this copy any more."""
    promised = promised_by(made.copy, made.template)
    return not lost(promised, seen) and all(kind in seen for kind in protections_of(promised))


def _as_read(seen: dict[int, bytes]) -> Shown:
    """As an inventory has it."""
    hashed = _hash_of(seen)
    seen.pop(ck.CKA_VALUE, None)
    return Shown(seen, hashed, counts=is_replicated(seen) and not is_record(seen))


def _shown(group: GroupRuntime, place: Place, reals: Sequence[int], wanted: tuple[int, ...]) -> list[Values]:
    """What each of these objects shows; None where it has to be asked by itself. Raises MemberLost."""
    found: list[Values] = []
    with suppress(SearchFailed, SessionRefused):
        index, connection = place
        if reals and group.log_in_member(index, connection, group.deadline()):
            with at_hand(connection, group.deadline()) as session:
                for _, seen in in_series(connection, session, reals, wanted, group.deadline):
                    found += seen
    return [*found, *[None] * (len(reals) - len(found))]


def _create(group: GroupRuntime, place: Place, begun: Sequence[_Begun]) -> None:
    """C_CreateObject of each, as far as it comes. Raises MemberLost, SearchFailed, SessionRefused."""
    index, connection = place
    deadline = group.deadline()
    if not begun or not group.log_in_member(index, connection, deadline):
        return
    start, logins, nonsense = group.clock(), connection.logins, connection.nonsense
    rest = list(begun)
    with at_hand(connection, deadline) as session:
        while rest and group.clock() - start < _LONGEST:
            answers = create_many(connection, session, [each.template for each in rest], group.deadline())
            for each, (rv, real) in zip(rest, answers, strict=False):
                each.tried = Tried(index, connection, start, logins, nonsense, rv, [real], None)
            rest = rest[len(answers) :]
