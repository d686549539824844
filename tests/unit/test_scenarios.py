"""Histories of groups, played on the pure machine: tests/scenarios/*.toml, whose format tests/scenarios/README.md
says."""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyha.ha.group import Cause, Group, Member, Occasion, State
from pyha.ha.selection import WARM_UP, part_of
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role
from pyha.ha.status import MemberView, code

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
CAUSES = {cause.name.lower().replace("_", "-"): cause for cause in Cause}
CODES = {"OK": 0x0, "DEVICE_ERROR": 0x30, "TOKEN_NOT_PRESENT": 0xE0}
OCCASION_OF = {
    RecoveryMode.BACKGROUND: Occasion.TIME,
    RecoveryMode.ON_CALL: Occasion.CALL,
    RecoveryMode.MANUAL: Occasion.OPERATOR,
}


@dataclass
class Play:
    """A group, the time, and what was shown of it."""

    names: list[str]
    group: Group
    settings: RecoverySettings
    now: float = 0.0
    shown: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, members: str, recovery: str = "background 60 -1") -> "Play":
        mode, interval, attempts = recovery.split()
        made = []
        for word in members.split():
            name, _, kind = word.partition(":")
            assert kind in ("", "standby", "disabled")
            role = Role.STANDBY if kind == "standby" else Role.ACTIVE
            made.append(Member(name, role, State.DISABLED) if kind == "disabled" else Member(name, role))
        settings = RecoverySettings(RecoveryMode(mode), float(interval), int(attempts))
        return cls([member.name for member in made], Group(tuple(made)), settings, shown=[0] * len(made))

    # -- news ---------------------------------------------------------------------------------------------------

    def tell(self, news: str) -> None:
        """One piece of news."""
        if news == "answered":
            self.group = self.group.announce()
            return
        name, verb, *words = news.split()
        if name not in self.names:
            self.names.append(name)
            self.shown.append(0)
            role = Role.STANDBY if "standby" in words else Role.ACTIVE
            self.group = self.group.described(len(self.names) - 1, name, role, len(self.names) - 1)
        index = self.names.index(name)
        if self._administered(index, verb, words):
            return
        member = self.group.members[index]
        numbers = [int(word) for word in words if word.isdigit()]
        generation = numbers[0] if numbers else member.generation + (verb == "joined")
        unsynchronised = "unsynchronised" in words
        causes = [CAUSES[word] for word in words if not word.isdigit() and word != "unsynchronised"]
        cause = causes[0] if causes else Cause.LOST
        group = self.group
        happened: dict[str, Callable[[], Group]] = {
            "joined": lambda: group.joined(index, generation),
            "lost": lambda: group.lost(index, generation, "gone", cause),
            "tried": lambda: group.recovering(index),
            "returned": lambda: group.returned(index, generation, self.now, unsynchronised),
            "stayed-out": lambda: group.stays_out(index, generation, "still gone", self.now, cause),
        }
        self.group = happened[verb]()

    def _administered(self, index: int, verb: str, words: list[str]) -> bool:
        """What the operator does to a member."""
        group, member = self.group, self.group.members[index]
        contacted = any(each.state in (State.IN, State.FAILED) for each in group.members)
        happened: dict[str, Callable[[], Group]] = {
            "removed": lambda: group.taken_out(index, State.REMOVED, "removed"),
            "disabled": lambda: group.taken_out(index, State.DISABLED, "disabled"),
            "added": lambda: group.wanted(index, contacted),
            "enabled": lambda: group.wanted(index, contacted),
            "standby": lambda: group.described(index, member.name, Role.STANDBY, member.place),
            "active": lambda: group.described(index, member.name, Role.ACTIVE, member.place),
            "placed": lambda: group.described(index, member.name, member.role, int(words[0])),
        }
        if verb in happened:
            self.group = happened[verb]()
        return verb in happened

    # -- what must be so ----------------------------------------------------------------------------------------

    def _named(self, indices: tuple[int, ...]) -> str:
        return " ".join(self.names[index] for index in indices)

    def _each(self, of: Callable[[Member], object]) -> str:
        return " ".join(str(of(member)) for member in self.group.members)

    def _due(self, on: str | None) -> str:
        occasion = Occasion(on) if on else OCCASION_OF[self.settings.mode]
        return self._named(self.group.due(self.settings, occasion, self.now))

    def _next(self) -> object:
        at = self.group.next_due(self.settings)
        return "never" if at is None else at

    def _parts(self) -> str:
        returned = self.group.returned_at()
        ages = [self.now - returned[index] if index in returned else WARM_UP for index in self.group.serving()]
        return " ".join(f"{part_of(age):g}" for age in ages)

    def _status(self) -> str:
        """Reads the status, as an operator does."""
        words = []
        for index, member in enumerate(self.group.members):
            words.append(next(name for name, rv in CODES.items() if rv == code(_view(member), self.shown[index])))
            self.shown[index] = member.losses
        return " ".join(words)

    def found(self, key: str, on: str | None) -> object:
        """What is so."""
        group = self.group
        known: dict[str, Callable[[], object]] = {
            "serving": lambda: self._named(group.serving()),
            "present": lambda: self._named(group.present()),
            "states": lambda: self._each(lambda member: member.state.value),
            "out": lambda: {
                member.name: next(word for word, cause in CAUSES.items() if cause is member.cause)
                for member in group.members
                if member.state is State.FAILED
            },
            "due": lambda: self._due(on),
            "next": self._next,
            "failed-attempts": lambda: self._each(lambda member: member.attempts.count),
            "generations": lambda: self._each(lambda member: member.generation),
            "unsynchronised": lambda: " ".join(member.name for member in group.members if member.unsynchronised),
            "status": self._status,
            "answer": lambda: "TOKEN_NOT_PRESENT" if group.announced else "DEVICE_ERROR",
            "complete": group.complete,
            "deserted": group.deserted,
            "promoted": group.promoted,
            "parts": self._parts,
        }
        return known[key]()


def _view(member: Member) -> MemberView:
    return MemberView(
        member.name, "", member.role, member.state, member.cause, member.reason, member.unsynchronised,
        member.generation, member.losses, member.attempts.total, member.attempts.count, 0, 0, 0.0, (),
    )  # fmt: skip


def histories() -> Iterator[Any]:
    for path in sorted(SCENARIOS.glob("*.toml")):
        for history in tomllib.loads(path.read_text())["history"]:
            yield pytest.param(history, id=f"{path.stem}: {history['name']}")


@pytest.mark.parametrize("history", list(histories()))
def test_history(history: dict[str, Any]) -> None:
    assert set(history) <= {"name", "members", "recovery", "phases"}
    play = Play.begin(history["members"], history.get("recovery", "background 60 -1"))
    for number, phase in enumerate(history["phases"], 1):
        expected = {key: value for key, value in phase.items() if key not in ("at", "news", "on")}
        assert expected, f"phase {number} expects nothing"
        assert phase.get("at", play.now) >= play.now
        play.now = phase.get("at", play.now)
        for news in filter(None, map(str.strip, phase.get("news", "").split(","))):
            play.tell(news)
        found = {key: play.found(key, phase.get("on")) for key in expected}
        assert found == expected, f"phase {number}"


def test_there_are_many_and_each_has_its_own_name() -> None:
    names = [parameter.id for parameter in histories()]
    assert len(names) == len(set(names)) >= 60
