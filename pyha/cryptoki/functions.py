"""The table of Cryptoki's functions: each stated once, with its arguments, its route and its part in an operation.

Pure data. Everything that is known of a C_* function is here and nowhere else: the build derives prototypes,
structs, wrappers and the function list from it; `pyha.abi` the reading and writing of arguments; the runtime where a
call goes and what follows. The order is that of CK_FUNCTION_LIST and CK_FUNCTION_LIST_3_0, so a row's position is
its index in a module's function list.

Sources: PKCS #11 Base Specification 2.40 and 3.0, section 5; SEMANTICS.md section 3 (routes).
"""

from enum import Enum, auto

from pyha.cryptoki.kinds import Kind
from pyha.cryptoki.plain import dataclass

_V2, _V3 = (2, 40), (3, 0)


class Route(Enum):
    """Where a call goes, and what its success means (SEMANTICS.md section 3)."""

    NATIVE = auto()  # answered by the C shim itself, before any Python runs
    LOCAL = auto()  # answered from our own state
    ANY = auto()  # one member, the least busy; a complete operation in one call
    START = auto()  # one member, the least busy; opens an operation that stays there
    CONTINUE = auto()  # the member of the open operation
    FINISH = auto()  # the member of the open operation; ends it
    READ = auto()  # one member, the primary
    SEARCH = auto()  # one member, the primary; drained at once
    CREATE = auto()  # primary, then every other member, then CKR_OK
    CHANGE = auto()  # primary, then every other member
    EVERY = auto()  # every member; a refusal by the primary is the answer
    REFUSE = auto()  # CKR_FUNCTION_NOT_SUPPORTED


class Operation(Enum):
    """Operations a session can have open (PKCS #11 section 5.7 to 5.13)."""

    SEARCH = auto()
    ENCRYPT = auto()
    DECRYPT = auto()
    DIGEST = auto()
    SIGN = auto()
    SIGN_RECOVER = auto()
    VERIFY = auto()
    VERIFY_RECOVER = auto()

    # Enum's own is a Python function; operations are keys on every call's way, and each of them is one object.
    __hash__ = object.__hash__


@dataclass(frozen=True)
class Argument:
    """One argument: its name (the C parameter's too) and its kind."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Function:
    """One row of the table.

    `index`: position in the function list. `operation`: the one it opens, continues or ends (by its route).
    `slow`: may take long by nature and gets the longer deadline. `random`: a CREATE that gives another key each time,
    so that it cannot be repeated on a second member.
    """

    index: int
    name: str
    route: Route
    arguments: tuple[Argument, ...]
    operation: Operation | None = None
    slow: bool = False
    random: bool = False
    since: tuple[int, int] = _V2


_SESSION = ("session", Kind.SESSION)
_MECHANISM = ("mechanism", Kind.MECHANISM)
_KEY = ("key", Kind.KEY)
_OBJECT = ("object", Kind.OBJECT)
_TEMPLATE = ("template", Kind.TEMPLATE)
_DATA = ("data", Kind.BYTES)
_RESULT = ("result", Kind.OUT_BYTES)
_SIGNATURE = ("signature", Kind.BYTES)
_PARAMETER = ("parameter", Kind.PARAMETER)
_NEW = ("new_object", Kind.OUT_OBJECT)
_ASSOCIATED = ("associated", Kind.BYTES)

_rows: list[Function] = []


def _row(
    name: str,
    route: Route,
    *arguments: tuple[str, Kind],
    operation: Operation | None = None,
    slow: bool = False,
    random: bool = False,
    since: tuple[int, int] = _V2,
) -> None:
    described = tuple(Argument(*argument) for argument in arguments)
    _rows.append(Function(len(_rows), name, route, described, operation, slow, random, since))


def _start(name: str, operation: Operation, *arguments: tuple[str, Kind]) -> None:
    _row(name, Route.START, _SESSION, *arguments, operation=operation)


def _continue(name: str, operation: Operation, *arguments: tuple[str, Kind]) -> None:
    _row(name, Route.CONTINUE, _SESSION, *arguments, operation=operation)


def _finish(name: str, operation: Operation, *arguments: tuple[str, Kind]) -> None:
    _row(name, Route.FINISH, _SESSION, *arguments, operation=operation)


def _message(name: str, *arguments: tuple[str, Kind]) -> None:
    _row(name, Route.REFUSE, _SESSION, *arguments, since=_V3)


_row("C_Initialize", Route.LOCAL, ("init_args", Kind.INITIALIZE))
_row("C_Finalize", Route.LOCAL, ("reserved", Kind.RESERVED))
_row("C_GetInfo", Route.LOCAL, ("info", Kind.OUT_INFO))
_row("C_GetFunctionList", Route.NATIVE, ("list", Kind.OUT_FUNCTION_LIST))
_row("C_GetSlotList", Route.LOCAL, ("present", Kind.BOOL), ("slots", Kind.OUT_SLOTS))
_row("C_GetSlotInfo", Route.LOCAL, ("slot", Kind.SLOT), ("info", Kind.OUT_SLOT_INFO))
_row("C_GetTokenInfo", Route.LOCAL, ("slot", Kind.SLOT), ("info", Kind.OUT_TOKEN_INFO))
_row("C_GetMechanismList", Route.LOCAL, ("slot", Kind.SLOT), ("mechanisms", Kind.OUT_MECHANISMS))
_row(
    "C_GetMechanismInfo",
    Route.LOCAL,
    ("slot", Kind.SLOT),
    ("mechanism_type", Kind.MECHANISM_TYPE),
    ("info", Kind.OUT_MECHANISM_INFO),
)
_row("C_InitToken", Route.LOCAL, ("slot", Kind.SLOT), ("pin", Kind.PIN), ("label", Kind.LABEL), slow=True)
_row("C_InitPIN", Route.EVERY, _SESSION, ("pin", Kind.PIN), slow=True)
_row("C_SetPIN", Route.EVERY, _SESSION, ("old_pin", Kind.PIN), ("new_pin", Kind.PIN), slow=True)
_row(
    "C_OpenSession",
    Route.LOCAL,
    ("slot", Kind.SLOT),
    ("flags", Kind.FLAGS),
    ("notify", Kind.NOTIFY),
    ("new_session", Kind.OUT_SESSION),
)
_row("C_CloseSession", Route.LOCAL, _SESSION)
_row("C_CloseAllSessions", Route.LOCAL, ("slot", Kind.SLOT))
_row("C_GetSessionInfo", Route.LOCAL, _SESSION, ("info", Kind.OUT_SESSION_INFO))
_row("C_GetOperationState", Route.LOCAL, _SESSION, ("state", Kind.OUT_BYTES))
_row(
    "C_SetOperationState",
    Route.LOCAL,
    _SESSION,
    ("state", Kind.BYTES),
    ("encryption_key", Kind.OPTIONAL_KEY),
    ("authentication_key", Kind.OPTIONAL_KEY),
)
_row("C_Login", Route.EVERY, _SESSION, ("user", Kind.USER), ("pin", Kind.PIN), slow=True)
_row("C_Logout", Route.EVERY, _SESSION)
_row("C_CreateObject", Route.CREATE, _SESSION, _TEMPLATE, _NEW)
_row("C_CopyObject", Route.CREATE, _SESSION, _OBJECT, _TEMPLATE, _NEW)
_row("C_DestroyObject", Route.CHANGE, _SESSION, _OBJECT)
_row("C_GetObjectSize", Route.READ, _SESSION, _OBJECT, ("size", Kind.OUT_SIZE))
_row("C_GetAttributeValue", Route.READ, _SESSION, _OBJECT, ("query", Kind.QUERY))
_row("C_SetAttributeValue", Route.CHANGE, _SESSION, _OBJECT, _TEMPLATE)
_row("C_FindObjectsInit", Route.SEARCH, _SESSION, _TEMPLATE, operation=Operation.SEARCH)
_row("C_FindObjects", Route.LOCAL, _SESSION, ("objects", Kind.OUT_OBJECTS), operation=Operation.SEARCH)
_row("C_FindObjectsFinal", Route.LOCAL, _SESSION, operation=Operation.SEARCH)
_start("C_EncryptInit", Operation.ENCRYPT, _MECHANISM, _KEY)
_finish("C_Encrypt", Operation.ENCRYPT, _DATA, _RESULT)
_continue("C_EncryptUpdate", Operation.ENCRYPT, _DATA, _RESULT)
_finish("C_EncryptFinal", Operation.ENCRYPT, _RESULT)
_start("C_DecryptInit", Operation.DECRYPT, _MECHANISM, _KEY)
_finish("C_Decrypt", Operation.DECRYPT, _DATA, _RESULT)
_continue("C_DecryptUpdate", Operation.DECRYPT, _DATA, _RESULT)
_finish("C_DecryptFinal", Operation.DECRYPT, _RESULT)
_start("C_DigestInit", Operation.DIGEST, _MECHANISM)
_finish("C_Digest", Operation.DIGEST, _DATA, _RESULT)
_continue("C_DigestUpdate", Operation.DIGEST, _DATA)
_continue("C_DigestKey", Operation.DIGEST, _KEY)
_finish("C_DigestFinal", Operation.DIGEST, _RESULT)
_start("C_SignInit", Operation.SIGN, _MECHANISM, _KEY)
_finish("C_Sign", Operation.SIGN, _DATA, _RESULT)
_continue("C_SignUpdate", Operation.SIGN, _DATA)
_finish("C_SignFinal", Operation.SIGN, _RESULT)
_start("C_SignRecoverInit", Operation.SIGN_RECOVER, _MECHANISM, _KEY)
_finish("C_SignRecover", Operation.SIGN_RECOVER, _DATA, _RESULT)
_start("C_VerifyInit", Operation.VERIFY, _MECHANISM, _KEY)
_finish("C_Verify", Operation.VERIFY, _DATA, _SIGNATURE)
_continue("C_VerifyUpdate", Operation.VERIFY, _DATA)
_finish("C_VerifyFinal", Operation.VERIFY, _SIGNATURE)
_start("C_VerifyRecoverInit", Operation.VERIFY_RECOVER, _MECHANISM, _KEY)
_finish("C_VerifyRecover", Operation.VERIFY_RECOVER, _DATA, _RESULT)
for _name in ("C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate"):
    _row(_name, Route.REFUSE, _SESSION, _DATA, _RESULT)
_row("C_GenerateKey", Route.CREATE, _SESSION, _MECHANISM, _TEMPLATE, _NEW, slow=True, random=True)
_row(
    "C_GenerateKeyPair",
    Route.CREATE,
    _SESSION,
    _MECHANISM,
    ("public_template", Kind.TEMPLATE),
    ("private_template", Kind.TEMPLATE),
    ("public_key", Kind.OUT_OBJECT),
    ("private_key", Kind.OUT_OBJECT),
    slow=True,
    random=True,
)
_row("C_WrapKey", Route.ANY, _SESSION, _MECHANISM, ("wrapping_key", Kind.WRAPPING_KEY), _KEY, _RESULT)
_row(
    "C_UnwrapKey",
    Route.CREATE,
    _SESSION,
    _MECHANISM,
    ("unwrapping_key", Kind.UNWRAPPING_KEY),
    ("wrapped", Kind.BYTES),
    _TEMPLATE,
    _NEW,
)
_row("C_DeriveKey", Route.CREATE, _SESSION, _MECHANISM, ("base_key", Kind.KEY), _TEMPLATE, _NEW, slow=True)
_row("C_SeedRandom", Route.EVERY, _SESSION, ("seed", Kind.BYTES))
_row("C_GenerateRandom", Route.ANY, _SESSION, ("random", Kind.FILL))
_row("C_GetFunctionStatus", Route.LOCAL, _SESSION)
_row("C_CancelFunction", Route.LOCAL, _SESSION)
_row(
    "C_WaitForSlotEvent",
    Route.LOCAL,
    ("flags", Kind.FLAGS),
    ("slot", Kind.OUT_SLOT),
    ("reserved", Kind.RESERVED),
)
_row("C_GetInterfaceList", Route.NATIVE, ("interfaces", Kind.OUT_INTERFACES), since=_V3)
_row(
    "C_GetInterface",
    Route.NATIVE,
    ("name", Kind.INTERFACE_NAME),
    ("version", Kind.VERSION),
    ("interface", Kind.OUT_INTERFACE),
    ("flags", Kind.FLAGS),
    since=_V3,
)
_message("C_LoginUser", ("user", Kind.USER), ("pin", Kind.PIN), ("username", Kind.PIN))
_row("C_SessionCancel", Route.LOCAL, _SESSION, ("flags", Kind.FLAGS), since=_V3)
for _way in ("Encrypt", "Decrypt"):
    _message(f"C_Message{_way}Init", _MECHANISM, _KEY)
    _message(f"C_{_way}Message", _PARAMETER, _ASSOCIATED, _DATA, _RESULT)
    _message(f"C_{_way}MessageBegin", _PARAMETER, _ASSOCIATED)
    _message(f"C_{_way}MessageNext", _PARAMETER, _DATA, _RESULT, ("flags", Kind.FLAGS))
    _message(f"C_Message{_way}Final")
for _way, _end in (("Sign", _RESULT), ("Verify", _SIGNATURE)):
    _message(f"C_Message{_way}Init", _MECHANISM, _KEY)
    _message(f"C_{_way}Message", _PARAMETER, _DATA, _end)
    _message(f"C_{_way}MessageBegin", _PARAMETER)
    _message(f"C_{_way}MessageNext", _PARAMETER, _DATA, _end)
    _message(f"C_Message{_way}Final")

FUNCTIONS: tuple[Function, ...] = tuple(_rows)
"""Every function, in the order of the function list."""

BY_NAME: dict[str, Function] = {function.name: function for function in FUNCTIONS}

COUNT_2_40 = sum(function.since == _V2 for function in FUNCTIONS)
"""Length of CK_FUNCTION_LIST; the rows after it are CK_FUNCTION_LIST_3_0's own."""
