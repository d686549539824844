"""Where a member's PIN comes from: `file:/absolute/path` or `env:NAME`.

Knows the two forms and how to read them. A PIN is handed over in a bytearray that the caller wipes; it is in no message
here.
"""

from collections.abc import Mapping

from pyha.runtime import trusted

_LIMIT = 4096
"""Bytes: more than any token takes, and a wrong file is noticed."""


class PinUnavailable(Exception):
    """The PIN cannot be had. `str()` is one sentence without the PIN."""


def complaint(source: str) -> str | None:
    """What is wrong with the text of a source, None where it is one of the two forms. Reads nothing."""
    form, _, rest = source.partition(":")
    if form == "file" and rest.startswith("/"):
        return None
    if form == "env" and rest and "=" not in rest:
        return None
    return "is neither file:/absolute/path nor env:NAME"


def read(source: str, environ: Mapping[str, str], *, secure: bool = False) -> bytearray:
    """The PIN, without the one newline that may end its file. The caller wipes it.

    `secure`: the process runs with more rights than its user has (AT_SECURE), whose environment is then not believed.
    A file must belong to root or to the effective user, be open to its owner and at most readable by its group.
    Raises PinUnavailable.
    """
    if complaint(source):
        raise PinUnavailable(f"the PIN source {complaint(source)}")
    form, _, rest = source.partition(":")
    if form == "file":
        try:
            pin = trusted.read(rest, _LIMIT, private=True)
        except trusted.FileRefused as error:
            raise PinUnavailable(f"the PIN file {rest} {error}") from None
        if pin.endswith(b"\n"):
            pin[-1] = 0
            del pin[-1]
    elif secure:
        raise PinUnavailable(f"the PIN source env:{rest} is not used in a program that runs with another user's rights")
    else:
        # surrogateescape: a PIN need not be UTF-8; os.environ decoded the bytes this way.
        pin = bytearray(environ.get(rest, "").encode(errors="surrogateescape"))
    if not pin:
        raise PinUnavailable(f"the PIN source {source} is empty")
    return pin
