"""Threads of ours inside other people's programs. Knows how a thread is started there; nothing of what it does."""

import threading
from collections.abc import Callable

from pyha.abi.native import ffi, lib

_MASK_SIZE = 128  # PYHA_SIGNAL_MASK_SIZE of shim/entry.h


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Starts a daemon thread that no signal of the application ever interrupts.

    Raises RuntimeError where the system gives no thread, OSError where the signal mask cannot be changed.
    """
    saved = ffi.new("uint8_t[]", _MASK_SIZE)
    failed = lib.pyha_block_signals(saved)
    if failed:
        raise OSError(failed, "cannot block signals")
    # A thread inherits the mask of the one that starts it: blocking inside the new thread would leave a moment.
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    finally:
        lib.pyha_restore_signals(saved)
    return thread
