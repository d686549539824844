"""Run by shim/entry.c at the first C_Initialize: makes our packages importable and imports the Python part.

Compiled into the shared object as text. Its names come from entry.c: `create_extension()` makes the module `_pyha`
that this very object holds, `PACKAGES` is the directory that holds `pyha`, `SITES` are the directories where
`_cffi_backend` may be besides, `OWN_PATH` is the object's path, `EXECUTABLE` the Python that was built for, `ENTRY` the
module to import, `SHARED` tells that the interpreter is the application's own. It leaves one sentence in `problem`
where the start failed, else None. One thread at a time runs it.
"""

import sys


def extend(paths):
    sys.path.extend(path for path in paths if path not in sys.path)


def importable(name):
    from _frozen_importlib_external import PathFinder  # importlib.machinery's, without importing importlib

    return name in sys.modules or PathFinder.find_spec(name) is not None


def start():
    if not SHARED:
        sys.executable = EXECUTABLE  # Python took PYTHONEXECUTABLE from the environment, isolated or not
    # A Python application decides itself what it imports; only what it lacks is added, and at the end.
    if SHARED and not importable("pyha"):
        extend([PACKAGES])
    if not importable("_cffi_backend"):
        extend(SITES)
    if "_pyha" not in sys.modules:
        create_extension()
    other = sys.modules["_pyha"]
    loaded = other.ffi.string(other.lib.pyha_own_path()).decode("utf-8", "surrogateescape")
    if loaded != OWN_PATH:
        return f"this process already uses another build of this module, {loaded}"
    import os

    import pyha

    found = os.path.dirname(os.path.realpath(pyha.__file__))
    if found != os.path.realpath(os.path.join(PACKAGES, "pyha")):
        return f"{OWN_PATH} does not belong to the package pyha that this program imports, {found}"
    __import__(ENTRY)
    return None


try:
    problem = start()
except BaseException as error:  # whatever it is, the application gets a CK_RV and the operator one line
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename}, line {place.tb_lineno})" if place is not None else ""
    problem = f"cannot start: {type(error).__name__}: {error}{where}"
