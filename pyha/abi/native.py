"""Where cffi's `ffi` and `lib` come from: the shared object itself, whoever runs this.

Inside an application the shim has made the module `_pyha` before anything of ours is imported. In an ordinary Python
process (the `pyha` command, tests) the very same file is loaded as an extension module; the part that embeds an
interpreter then stays asleep. Knows where the file is; knows nothing of what is in it.
"""

import os
import sys
from types import ModuleType
from typing import Any

MODULE = "pyha-pkcs11.so"
"""File name of the PKCS#11 module."""


def module_path() -> str:
    """Absolute path of the PKCS#11 module that belongs to this package.

    Raises FileNotFoundError, with one sentence, where it has not been built.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(package, "_native", MODULE)
    built = os.path.join(os.path.dirname(package), "build", MODULE)
    for path in (installed, built):
        if os.path.exists(path):
            return path
    raise FileNotFoundError(f"The PKCS#11 module is not built: neither {installed} nor {built} exists.")


def _load() -> ModuleType:
    # Imported here: inside an application this function never runs, and importlib costs.
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    path = module_path()
    spec = spec_from_file_location("_pyha", path, loader=ExtensionFileLoader("_pyha", path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as an extension module.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules.setdefault("_pyha", module)


_module: Any = sys.modules.get("_pyha") or _load()

ffi: Any = _module.ffi
"""cffi's FFI of the shared object: types, `new`, `cast`, `buffer`, `def_extern`."""

lib: Any = _module.lib
"""The C functions of shim/*.cdef."""
