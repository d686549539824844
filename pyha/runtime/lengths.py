"""The length of a secret key that a member does not tell: modules leave CKA_VALUE_LEN of an unwrapped key at 0.

Source: REPLICATION.md (attributes of a copy made by C_UnwrapKey).
"""

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import KEY_TYPES
from pyha.cryptoki.values import Mechanism, Out
from pyha.ha.domain import DomainKey
from pyha.ha.identity import flag, number
from pyha.runtime import escrow
from pyha.runtime.admission import domain_handles
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import read_attributes
from pyha.runtime.member import Connection
from pyha.runtime.objects import Entry
from pyha.runtime.wrapping import AES_WRAP_OVERHEAD


def key_length(
    group: GroupRuntime, connection: Connection, session: int, real: int, entry: Entry, deadline: float
) -> int | None:
    """Bytes of a secret key's value, None where nobody can tell (private keys too); kept in `entry`. Raises
    MemberLost, SearchFailed, SessionRefused."""
    if entry.identity.object_class != ck.CKO_SECRET_KEY:
        return None
    if entry.value_length is None:
        entry.value_length = _find_out(group, connection, session, real, entry, deadline)
    return entry.value_length


def _find_out(
    group: GroupRuntime, connection: Connection, session: int, real: int, entry: Entry, deadline: float
) -> int | None:
    row = KEY_TYPES.get(entry.identity.key_type or 0)
    lengths = row.lengths if row is not None else ()
    if len(lengths) == 1:
        return lengths[0]
    wanted = (ck.CKA_VALUE_LEN, ck.CKA_CHECK_VALUE, ck.CKA_EXTRACTABLE)
    shown = read_attributes(connection, session, real, wanted, deadline)
    told = number(shown.get(ck.CKA_VALUE_LEN))
    if told:
        return told
    for _, record in escrow.find(connection, group.settings.id, entry.identity, deadline):
        if record.value_length:
            return record.value_length
    if not flag(shown.get(ck.CKA_EXTRACTABLE)):
        return None
    handles = domain_handles(group, connection, DomainKey.OPEN, deadline)
    if handles is None:
        return None
    mechanism = Mechanism(ck.CKM_AES_KEY_WRAP)
    rv, results = connection.call("C_WrapKey", deadline, session, mechanism, handles.wrapping, real, Out(4096))
    if rv != ck.CKR_OK:
        return None
    length = len(results[4][1]) - AES_WRAP_OVERHEAD
    # Some modules pad. A key that was published has a check value, and where it does not fit a record.
    fits = length in lengths if lengths else bool(shown.get(ck.CKA_CHECK_VALUE))
    return length if fits else None
