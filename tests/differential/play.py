"""One sequence from beginning to end: every call compared, then the objects that are left, on the slot and on each of
its members."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import HISTORY
from pyha.cryptoki.names import rv_name
from tests.differential.calls import Back, Call, Fork, shortened
from tests.differential.faults import Fault
from tests.differential.lockstep import MATERIAL, Difference, Lockstep
from tests.differential.scene import Object, Scene, token_objects
from tests.differential.tolerated import UNTOLD, Tolerated, tolerated
from tests.differential.worker import CRASHED, HUNG

Step = Call | Fault | Fork | Back

_KEYS = (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY)


class Differs(AssertionError):
    """The slot is not like the bare module, and nothing says that it may differ there."""


@dataclass
class Tally:
    """What was compared: sequences, those that reached their end, calls, answers, and tolerated differences."""

    sequences: int = 0
    complete: int = 0
    calls: int = 0
    objects: int = 0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By function and CK_RV; of what is no call, by what it is."""
    tolerated: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [
            f"{self.calls} calls in {self.sequences} sequences, {self.complete} of them to their end, "
            f"{self.objects} token objects at the ends",
            *(f"{count:8} {name} {rv}" for (name, rv), count in sorted(self.answers.items())),
            *(f"{count:8} fault: {what}" for what, count in self.faults.most_common()),
            *(f"{count:8} tolerated: {reason}" for reason, count in self.tolerated.most_common()),
        ]
        return "\n".join(lines)


def play(scene: Scene, sequence: Sequence[Step], tally: Tally) -> None:
    """Raises Differs at the first difference that is not tolerated."""
    tally.sequences += 1
    played: list[Step] = []
    try:
        _play(scene, sequence, played, tally)
    except AssertionError as failure:
        # Of a failure over real tokens there may be this one only: all that was to be seen belongs to it.
        lines = [f"{number:4} {shortened(each)}" for number, each in enumerate(played, 1)]
        parts = f"{len(played)} of {len(sequence)} calls and faults of sequence {tally.sequences} were played:"
        failure.add_note("\n".join([parts, *lines, *scene.said().splitlines()]))
        raise


def _play(scene: Scene, sequence: Sequence[Step], played: list[Step], tally: Tally) -> None:
    lockstep = scene.start()
    ended = False
    try:
        ended = _calls(scene, lockstep, sequence, played, tally)
        anew = lockstep.away or lockstep.littered
        if anew and len(scene.present()) < len(scene.group.tokens):
            ended = False  # who begins anew takes in as it is what was out, and lacks what was made since
        if ended:
            if anew:
                scene.restart()
            bare = token_objects(scene.bare, lockstep.slots[0])
            slot = token_objects(scene.slot, lockstep.slots[1])
    finally:
        tally.calls += lockstep.calls
        scene.stop()
    if ended:
        tally.complete += 1
        tally.objects += len(bare)
        if lockstep.littered:
            bare = {key: each for key, each in bare.items() if key in slot or key.rpartition(b" ")[0] in lockstep.tags}
        generated = {tag for tag, same in lockstep.tags.items() if not same}
        _alike(bare, slot, "the slot", generated)
        for index, objects in scene.on_members(scene.present()).items():
            _alike(slot, objects, f"member {index}", set())


def _calls(scene: Scene, lockstep: Lockstep, sequence: Sequence[Step], played: list[Step], tally: Tally) -> bool:
    """False: the sides are apart, by a difference that is tolerated."""
    for call in sequence:
        played.append(call)
        if isinstance(call, Fault):
            tally.faults[scene.strike(call)] += 1
            lockstep.struck = True
            continue
        excused: list[Tolerated] = []
        for difference in _done(lockstep, call):
            entry = tolerated(difference)
            if entry is None:
                raise Differs(_said(difference))
            tally.tolerated[entry.reason] += 1
            excused.append(entry)
        tally.answers[
            (call.name, _name(lockstep.last_rv)) if isinstance(call, Call) else (type(call).__name__, "")
        ] += 1
        if any(entry.diverges for entry in excused):
            return False
        if isinstance(call, Back) and lockstep.wrote:
            break
    return True


def _done(lockstep: Lockstep, call: Call | Fork | Back) -> list[Difference]:
    if isinstance(call, Call):
        return lockstep.do(call)
    return lockstep.fork() if isinstance(call, Fork) else lockstep.back()


def _said(difference: Difference) -> str:
    bare, slot = difference.bare, difference.slot
    if difference.field == "rv":
        bare, slot = _name(bare), _name(slot)
    about = "" if difference.attribute is None else f" {difference.attribute:#x}"
    return f"{shortened(difference.call)}: {difference.field}{about}: {bare!r} on the bare module, {slot!r} on the slot"


def _name(rv: int) -> str:
    return {CRASHED: "crashed", HUNG: "hung"}.get(rv) or rv_name(rv)


def _alike(expected: dict[bytes, Object], found: dict[bytes, Object], where: str, generated: set[bytes]) -> None:
    if set(expected) != set(found):
        raise Differs(f"token objects: {sorted(expected)} expected, {sorted(found)} on {where}")
    for key, wanted in expected.items():
        shown = found[key]
        for attribute in sorted(set(wanted) | set(shown)):
            one, other = wanted.get(attribute), shown.get(attribute)
            if one != other and not _may_differ(key, attribute, wanted, other, generated):
                raise Differs(f"{key!r}: {attribute:#x} is {one!r}, and {other!r} on {where}")


def _may_differ(key: bytes, attribute: int, wanted: Object, other: bytes | None, generated: set[bytes]) -> bool:
    object_class = int.from_bytes(wanted[ck.CKA_CLASS] or b"", "little")
    if object_class not in _KEYS:
        return False
    if attribute in MATERIAL and key.rpartition(b" ")[0] in generated:
        return True
    if attribute == ck.CKA_VALUE_LEN and other == bytes(8):
        return True  # a member's own module does not tell it for what was unwrapped; the slot does
    if attribute in UNTOLD and wanted.get(attribute) == UNTOLD[attribute]:
        return True
    return attribute in HISTORY and other == HISTORY[attribute]
