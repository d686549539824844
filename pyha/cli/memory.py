"""Memory of a command that holds domain keys: out of swap and core files, and wiped.

Best effort where limits forbid locking. What libraries copy on their way is theirs: OpenSSL clears its own, and a
`bytes` that `cryptography` hands over is overwritten here, which Python itself cannot do.
"""

import ctypes
import mmap

_MCL_CURRENT_AND_FUTURE = 3
_PR_SET_DUMPABLE = 4
_PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None)


def protect() -> None:
    """Nothing of this process reaches swap or a core file from now on, as far as limits allow."""
    _libc.mlockall(_MCL_CURRENT_AND_FUTURE)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def locked_page() -> memoryview:
    """One page of zeros (bytes), locked, in no core file and in no forked child. It lives as long as views of it."""
    page = mmap.mmap(-1, _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page.madvise(mmap.MADV_DONTDUMP)
    page.madvise(mmap.MADV_DONTFORK)
    first = ctypes.c_char.from_buffer(page)
    _libc.mlock(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(_PAGE))
    return memoryview(page)


def wipe(value: bytearray | memoryview) -> None:
    """Overwrite with zeros."""
    value[:] = bytes(len(value))


def overwrite(value: bytes) -> None:
    """Overwrite the content of a `bytes` that nobody else uses: the one copy of a secret that a library handed over.
    Not for one of 0 or 1 bytes, which the interpreter shares."""
    if len(value) > 1:
        ctypes.memset(ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p), 0, len(value))
