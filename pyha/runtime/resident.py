"""Modules that run inside this process (`isolation = "none"`): several members, and several groups, may share one.

Such a module is initialised once, whoever comes first, and finalized when the last of ours has left - and only where it
was we who initialised it. Knows who uses which module; calls nothing itself.

Source: REPLICATION.md (quirks: two threads inside C_Initialize, CKR_CRYPTOKI_ALREADY_INITIALIZED).
"""

import os
import threading

from pyha.abi.native import lib


class Resident:
    """One module. `lock`: held during its C_Initialize and C_Finalize, two of which at once crash some modules; there
    is no deadline in this process, so nobody waits longer for it than for the module. `users`: connections that rely on
    it. `ours`: we initialised it, so we finalize it - unless a connection was left while a call was inside: it may be
    there still, and a module that is finalized under a call may end the application."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users = 0
        self.ours = False


_residents: dict[str, Resident] = {}
_fork = lib.pyha_generation_of_fork()
_lock = threading.Lock()


def resident(module: str) -> Resident:
    """The one of this module (absolute path), under whatever name it is called."""
    global _fork, _lock
    fork = lib.pyha_generation_of_fork()
    if fork != _fork:
        # The parent's: their locks may be held by threads that do not exist here.
        _fork, _lock = fork, threading.Lock()
        _residents.clear()
    with _lock:
        return _residents.setdefault(os.path.realpath(module), Resident())
