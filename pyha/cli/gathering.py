"""A group at work in a command: its members connected and logged in to, as an application has them, without an
application.

What of `pyha.runtime` works on groups works on this one too. No virtual session, no monitor, no status.

Source: SEMANTICS.md sections 2 (login) and 5 (resync).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pyha.cli.entering import SharedPin, candidate_of
from pyha.cli.errors import warn
from pyha.cryptoki import constants as ck
from pyha.runtime.assembly import codecs_for, connector
from pyha.runtime.domain_keys import NotServable
from pyha.runtime.group import GroupRuntime
from pyha.runtime.settings import GroupSettings


@contextmanager
def gathered(path: str, group: GroupSettings, shared: SharedPin, without: int | None = None) -> Iterator[GroupRuntime]:
    """The group with every enabled member in that can be reached, but for the one at `without`; who cannot be is named.
    `path`: the configuration, by which processes of this host exclude each other. Raises Mistake where a PIN cannot be
    had."""
    runtime = GroupRuntime(group, 0, connector(group, codecs_for((group,))))
    runtime.user = ck.CKU_USER
    runtime.changes.beside(path)
    with ExitStack() as open_ones:
        for index, member in enumerate(group.members):
            if index == without or not member.enabled:
                continue
            candidate = open_ones.enter_context(candidate_of(group, index))
            try:
                shared.enter(candidate, member.uri.pin_source)
            except NotServable as reason:
                warn(f"cannot be reached: {reason}")
                continue
            runtime.connections[index] = candidate.connection
            runtime.value = runtime.value.joined(index, candidate.connection.generation)
        yield runtime
