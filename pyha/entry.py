"""The way in from C: decode, answer, encode. What goes wrong in between is caught here and nowhere else.

Registers the one function that the shim calls. Knows C_Initialize and C_Finalize, because they make and end the
provider; everything else is the provider's.

Source: DESIGN.md (trap 2: the answer is CKR_GENERAL_ERROR until the normal path says otherwise).
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pyha.abi.codec import Codecs, Refused
from pyha.abi.native import ffi, lib
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, FUNCTIONS
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import InitializeArgs
from pyha.provider import Provider
from pyha.runtime import log
from pyha.runtime.assembly import ConfigurationUnusable, assemble
from pyha.runtime.failover import Tried

_DEFAULT = Codecs()
_INITIALIZE = BY_NAME["C_Initialize"].index
_FINALIZE = BY_NAME["C_Finalize"].index
_FAILED = ck.CKR_GENERAL_ERROR


class _Module:
    """The state of this process: at most one provider. A forked child starts with none (its C flag is cleared
    there)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.provider: Provider | None = None
        self.complaint = ""  # said already, though an application may ask again and again
        self.codecs = _DEFAULT
        self.fork = lib.pyha_generation_of_fork()


_module = _Module()


def _current() -> _Module:
    global _module
    fork = lib.pyha_generation_of_fork()
    if _module.fork != fork:
        # The parent's locks may be held by threads that do not exist here; its helpers are the parent's.
        _module = _Module()
    return _module


def _initialize(module: _Module, values: list[Any]) -> int:
    args: InitializeArgs | None = values[0]
    if args is not None and (args.reserved or args.mutexes not in (0, 4)):
        return ck.CKR_ARGUMENTS_BAD
    with module.lock:
        if module.provider is not None:
            return ck.CKR_CRYPTOKI_ALREADY_INITIALIZED
        try:
            groups, codecs, reload = assemble(secure=bool(lib.pyha_is_secure()))
        except ConfigurationUnusable as reason:
            if str(reason) != module.complaint:
                log.log("error", str(reason))
                module.complaint = str(reason)
            return ck.CKR_GENERAL_ERROR
        module.codecs = codecs
        threads = args is None or not args.flags & ck.CKF_LIBRARY_CANT_CREATE_OS_THREADS
        provider = Provider(groups, reload, guarded, threads)
        provider.go_straight(codecs.mechanisms, partial(_go_on, provider))
        module.provider = provider
        lib.pyha_straight_allow(1)
        lib.pyha_set_initialized(1)
    return ck.CKR_OK


def _finalize(module: _Module, values: list[Any]) -> int:
    if values[0]:
        return ck.CKR_ARGUMENTS_BAD
    with module.lock:
        provider, module.provider = module.provider, None
        if provider is None:
            return ck.CKR_CRYPTOKI_NOT_INITIALIZED
        lib.pyha_set_initialized(0)
    provider.finalize()
    return ck.CKR_OK


def _answer(index: int, arguments: Any, begun: Provider | None = None, tried: Tried | None = None) -> int:
    function = FUNCTIONS[index]
    # A forked child does not come here before its own C_Initialize: its C flag was cleared.
    module = _current() if index == _INITIALIZE else _module
    provider = module.provider if begun is None else begun
    if provider is None and index != _INITIALIZE:
        return ck.CKR_CRYPTOKI_NOT_INITIALIZED
    codec = module.codecs.made[index] or module.codecs.of(function)
    try:
        values = codec.decode(arguments)
        if index == _INITIALIZE:
            return _initialize(module, values)
        if index == _FINALIZE:
            return _finalize(module, values)
        assert provider is not None
        rv, results = provider.call(function, values, tried)
    except Refused as refusal:
        return refusal.rv
    except MemoryError:
        return ck.CKR_HOST_MEMORY
    if module.provider is not provider:
        # C_Finalize came while the call was inside: its members are gone, and so is what it could say of them.
        return ck.CKR_CRYPTOKI_NOT_INITIALIZED
    return codec.encode(arguments, values, results, rv) if results else rv


def _go_on(provider: Provider, index: int, call: Any, tried: Tried) -> int:
    """The general way, from where a straight one ended, and in the same run of the module: what it has met says nothing
    of the members that another C_Initialize has brought meanwhile."""
    return _answer(index, call.arguments, provider, tried)


def _crossed(index: int, arguments: Any, run: int | None, go: Callable[[Provider], int | None]) -> int:
    """Answer a call of which C has read what it needs: the CK_RV, with the bits of CKR_GENERAL_ERROR turned. `go`: its
    way, which may say None, that it is for the general one. `run`: where C has begun it already, in which run of the
    module."""
    try:
        module = _module
        provider = module.provider
        if run is not None and (provider is None or provider.run != run):
            return ck.CKR_CRYPTOKI_NOT_INITIALIZED ^ _FAILED
        rv = go(provider) if provider is not None else None
        if rv is None:
            rv = _answer(index, arguments)
        elif module.provider is not provider:
            rv = ck.CKR_CRYPTOKI_NOT_INITIALIZED
        return rv ^ _FAILED
    except BaseException as fault:
        log.log("error", f"{FUNCTIONS[index].name} answered {rv_name(ck.CKR_GENERAL_ERROR)}: {_where(fault)}")
        return 0


@ffi.def_extern()
def pyha_dispatch_straight(index: int, call: Any, session: int, key: int, mechanism: int, parameter_length: int) -> int:
    """Answer one call of which C has read what the straight way has to know: as `_crossed`."""

    def go(provider: Provider) -> int | None:
        way = provider.ways[index]
        return way(call, session, key, mechanism, parameter_length) if way is not None else None

    return _crossed(index, call.arguments, None, go)


@ffi.def_extern()
def pyha_dispatch_met(index: int, call: Any) -> int:
    """Go on with a call whose first try C has made: as `_crossed`."""

    def go(provider: Provider) -> int | None:
        met = provider.mets[index]
        return met(call) if met is not None else None

    return _crossed(index, call.arguments, call.run, go)


@ffi.def_extern()
def pyha_dispatch(index: int, arguments: Any, rv: Any) -> None:
    """Answer one call of the application: the CK_RV goes to `rv`, preset to CKR_GENERAL_ERROR."""
    try:
        rv[0] = _answer(index, arguments)
    except BaseException as fault:
        # The boundary: nothing may be thrown into the application, and CKR_GENERAL_ERROR stands.
        name = FUNCTIONS[index].name if index < len(FUNCTIONS) else str(index)
        log.log("error", f"{name} answered {rv_name(ck.CKR_GENERAL_ERROR)}: {_where(fault)}")


def guarded(work: Callable[[], None]) -> bool:
    """The boundary of a thread of ours, as `pyha_dispatch` is that of the application's: whether `work` came to its
    end."""
    try:
        work()
    except BaseException as fault:
        log.log("error", f"a fault in the background: {_where(fault)}")
        return False
    return True


def _where(fault: BaseException) -> str:
    """The kind of a fault and where it arose; never its text, which may hold what the application passed."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown"
    return f"{type(fault).__name__} at {place}"
