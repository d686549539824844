"""`python -m conformance.bench.reaped FILE COMMAND...`: runs a command and writes into the file how long it took, and
the processor time of it and of all that it left running, helpers too: seconds, both.

Helpers are no children of who starts them, so this process takes in every orphan below it.
"""

import ctypes
import os
import resource
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> int:
    """The command's exit status."""
    file, *command = sys.argv[1:]
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("no subreaper")
    start = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status = os.waitpid(process, 0)
    taken = time.monotonic() - start
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(file).write_text(f"{taken} {used.ru_utime + used.ru_stime}\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
