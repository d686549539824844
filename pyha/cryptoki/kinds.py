"""Argument kinds: what one argument of a Cryptoki function is, whatever the function.

Pure data. Knows how PKCS#11 passes an argument in C (which parameters, which types), its direction, and what a
NULL means; knows nothing of memory, sessions or members. `pyha.abi` reads and writes each kind, the build derives
prototypes and structs from `KINDS`.

Source: PKCS #11 Cryptographic Token Interface Base Specification 2.40 and 3.0, section 5 (function prototypes).
"""

from enum import Enum, auto

from pyha.cryptoki.plain import dataclass


class Kind(Enum):
    """What an argument means. The comment gives the decoded Python value."""

    SLOT = auto()  # int
    SESSION = auto()  # int
    OBJECT = auto()  # int; not known: CKR_OBJECT_HANDLE_INVALID
    KEY = auto()  # int; not known: CKR_KEY_HANDLE_INVALID
    WRAPPING_KEY = auto()  # int; not known: CKR_WRAPPING_KEY_HANDLE_INVALID
    UNWRAPPING_KEY = auto()  # int; not known: CKR_UNWRAPPING_KEY_HANDLE_INVALID
    OPTIONAL_KEY = auto()  # int; 0 is allowed (C_SetOperationState)
    FLAGS = auto()  # int
    USER = auto()  # int
    BOOL = auto()  # int
    MECHANISM_TYPE = auto()  # int
    MECHANISM = auto()  # values.Mechanism
    BYTES = auto()  # Buffer; NULL with length 0 is b""
    PIN = auto()  # Buffer | None (NULL: protected authentication path)
    PARAMETER = auto()  # (void *, length) of message functions; not decoded
    LABEL = auto()  # bytes, 32
    TEMPLATE = auto()  # values.Template
    QUERY = auto()  # values.Query: in and out
    FILL = auto()  # values.Out: the length is given, all of it is filled
    OUT_BYTES = auto()  # values.Out: two-call length protocol
    OUT_OBJECT = auto()  # None
    OUT_OBJECTS = auto()  # int: how many at most
    OUT_SESSION = auto()  # None
    OUT_SIZE = auto()  # None
    OUT_INFO = auto()  # None
    OUT_SLOT_INFO = auto()  # None
    OUT_TOKEN_INFO = auto()  # None
    OUT_SESSION_INFO = auto()  # None
    OUT_MECHANISM_INFO = auto()  # None
    OUT_SLOTS = auto()  # int | None: room in entries, None where only the count is asked for
    OUT_MECHANISMS = auto()  # int | None: likewise
    OUT_SLOT = auto()  # None
    OUT_FUNCTION_LIST = auto()  # answered in C
    OUT_INTERFACES = auto()  # answered in C
    OUT_INTERFACE = auto()  # answered in C
    INTERFACE_NAME = auto()  # answered in C
    VERSION = auto()  # answered in C
    INITIALIZE = auto()  # values.InitializeArgs | None
    RESERVED = auto()  # int: the pointer's value; anything but NULL is CKR_ARGUMENTS_BAD
    NOTIFY = auto()  # None: the application's callback and its data, accepted and never called


class Flow(Enum):
    """Which way an argument's content travels."""

    IN = auto()
    OUT = auto()
    BOTH = auto()


@dataclass(frozen=True)
class KindSpec:
    """How a kind is passed in C.

    `c`: (type, suffix) of each C parameter; the parameter is named by the argument's name and the suffix.
    `required`: index into `c` of the parameters that must not be NULL, else CKR_ARGUMENTS_BAD.
    `secret`: the content must not outlive the call nor be logged.
    """

    c: tuple[tuple[str, str], ...]
    flow: Flow = Flow.IN
    required: tuple[int, ...] = ()
    secret: bool = False

    @property
    def number(self) -> bool:
        """Whether it is passed by value: a number, a handle, a flag."""
        return len(self.c) == 1 and not self.c[0][0].endswith("_PTR")


def _scalar(ctype: str) -> KindSpec:
    return KindSpec(((ctype, ""),))


def _out(ctype: str) -> KindSpec:
    return KindSpec(((ctype, ""),), Flow.OUT, (0,))


KINDS: dict[Kind, KindSpec] = {
    Kind.SLOT: _scalar("CK_SLOT_ID"),
    Kind.SESSION: _scalar("CK_SESSION_HANDLE"),
    Kind.OBJECT: _scalar("CK_OBJECT_HANDLE"),
    Kind.KEY: _scalar("CK_OBJECT_HANDLE"),
    Kind.WRAPPING_KEY: _scalar("CK_OBJECT_HANDLE"),
    Kind.UNWRAPPING_KEY: _scalar("CK_OBJECT_HANDLE"),
    Kind.OPTIONAL_KEY: _scalar("CK_OBJECT_HANDLE"),
    Kind.FLAGS: _scalar("CK_FLAGS"),
    Kind.USER: _scalar("CK_USER_TYPE"),
    Kind.BOOL: _scalar("CK_BBOOL"),
    Kind.MECHANISM_TYPE: _scalar("CK_MECHANISM_TYPE"),
    Kind.MECHANISM: KindSpec((("CK_MECHANISM_PTR", ""),), Flow.BOTH, (0,)),
    Kind.BYTES: KindSpec((("CK_BYTE_PTR", ""), ("CK_ULONG", "_len"))),
    Kind.PIN: KindSpec((("CK_UTF8CHAR_PTR", ""), ("CK_ULONG", "_len")), secret=True),
    Kind.PARAMETER: KindSpec((("CK_VOID_PTR", ""), ("CK_ULONG", "_len")), Flow.BOTH),
    Kind.LABEL: KindSpec((("CK_UTF8CHAR_PTR", ""),), required=(0,)),
    Kind.TEMPLATE: KindSpec((("CK_ATTRIBUTE_PTR", ""), ("CK_ULONG", "_count"))),
    Kind.QUERY: KindSpec((("CK_ATTRIBUTE_PTR", ""), ("CK_ULONG", "_count")), Flow.BOTH, (0,)),
    Kind.FILL: KindSpec((("CK_BYTE_PTR", ""), ("CK_ULONG", "_len")), Flow.OUT, (0,)),
    Kind.OUT_BYTES: KindSpec((("CK_BYTE_PTR", ""), ("CK_ULONG_PTR", "_len")), Flow.BOTH, (1,)),
    Kind.OUT_OBJECT: _out("CK_OBJECT_HANDLE_PTR"),
    Kind.OUT_OBJECTS: KindSpec(
        (("CK_OBJECT_HANDLE_PTR", ""), ("CK_ULONG", "_max"), ("CK_ULONG_PTR", "_count")), Flow.OUT, (0, 2)
    ),
    Kind.OUT_SESSION: _out("CK_SESSION_HANDLE_PTR"),
    Kind.OUT_SIZE: _out("CK_ULONG_PTR"),
    Kind.OUT_INFO: _out("CK_INFO_PTR"),
    Kind.OUT_SLOT_INFO: _out("CK_SLOT_INFO_PTR"),
    Kind.OUT_TOKEN_INFO: _out("CK_TOKEN_INFO_PTR"),
    Kind.OUT_SESSION_INFO: _out("CK_SESSION_INFO_PTR"),
    Kind.OUT_MECHANISM_INFO: _out("CK_MECHANISM_INFO_PTR"),
    Kind.OUT_SLOTS: KindSpec((("CK_SLOT_ID_PTR", ""), ("CK_ULONG_PTR", "_count")), Flow.BOTH, (1,)),
    Kind.OUT_MECHANISMS: KindSpec((("CK_MECHANISM_TYPE_PTR", ""), ("CK_ULONG_PTR", "_count")), Flow.BOTH, (1,)),
    Kind.OUT_SLOT: _out("CK_SLOT_ID_PTR"),
    Kind.OUT_FUNCTION_LIST: _out("CK_FUNCTION_LIST_PTR_PTR"),
    Kind.OUT_INTERFACES: KindSpec((("CK_INTERFACE_PTR", ""), ("CK_ULONG_PTR", "_count")), Flow.BOTH, (1,)),
    Kind.OUT_INTERFACE: _out("CK_INTERFACE_PTR_PTR"),
    Kind.INTERFACE_NAME: _scalar("CK_UTF8CHAR_PTR"),
    Kind.VERSION: _scalar("CK_VERSION_PTR"),
    Kind.INITIALIZE: _scalar("CK_VOID_PTR"),
    Kind.RESERVED: _scalar("CK_VOID_PTR"),
    Kind.NOTIFY: KindSpec((("CK_VOID_PTR", "_data"), ("CK_NOTIFY", ""))),
}
