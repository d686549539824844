"""Looking for bytes in the memory of a running process."""

from dataclasses import dataclass
from pathlib import Path

_PIECE = 12
"""Bytes: of a secret that is longer a part is as bad; shorter pieces are found by chance."""


@dataclass(frozen=True)
class Hit:
    """`mapping`: the line of /proc/PID/maps, without its numbers. `flags`: VmFlags of smaps (proc(5))."""

    address: int
    mapping: str
    flags: frozenset[str]


def find(pid: int, secret: bytes) -> list[Hit]:
    """Where a secret, or its first or last 12 bytes, is in the memory that a process can write; of overlapping parts
    the first. Raises PermissionError where the process is not to be read."""
    pieces = {secret[:_PIECE], secret[-_PIECE:]}
    hits = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for first, last, mapping, flags in _mappings(pid):
            try:
                memory.seek(first)
                content = memory.read(last - first)
            except OSError:  # [vvar] and the like
                continue
            end = -1
            found = sorted(at for piece in pieces for at in _all(content, piece))
            for at in found:
                if at > end:
                    hits.append(Hit(first + at, mapping, flags))
                end = at + len(secret)
    return hits


def _all(content: bytes, piece: bytes) -> list[int]:
    found = []
    at = content.find(piece)
    while at >= 0:
        found.append(at)
        at = content.find(piece, at + 1)
    return found


def _mappings(pid: int) -> list[tuple[int, int, str, frozenset[str]]]:
    found: list[tuple[int, int, str, frozenset[str]]] = []
    writable = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        bounds = words[0].split("-")
        if len(bounds) == 2 and not words[0].endswith(":"):
            writable = words[1].startswith("rw")
            if writable:
                found.append((int(bounds[0], 16), int(bounds[1], 16), " ".join(words[1:2] + words[5:]), frozenset()))
        elif words[0] == "VmFlags:" and writable:
            found[-1] = (*found[-1][:3], frozenset(words[1:]))
    return found
