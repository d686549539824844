"""The configuration file: where it is, whether it may be believed, and reading it.

Knows files and TOML; what the keys mean is in `pyha.runtime.schema`, the resulting values in `pyha.runtime.settings`.

Source: docs/configuration.md.
"""

import os
import tomllib
from collections.abc import Mapping

from pyha.runtime import schema, trusted
from pyha.runtime.settings import Configuration

SYSTEM = "/etc/pyha/pyha.toml"
LIMIT = 1 << 20
"""Bytes. A configuration has some kilobytes; something else behind the name is not read to its end."""


class ConfigurationError(Exception):
    """The file cannot be used. `path`: str. `errors`: one "key: what is wrong" each, or one sentence about the whole
    file."""

    def __init__(self, path: str, errors: tuple[str, ...]) -> None:
        super().__init__(f"{path}: {'; '.join(errors)}")
        self.path = path
        self.errors = errors


def find(environ: Mapping[str, str], secure: bool, system: str = SYSTEM) -> str | None:
    """The path of the file to use, None where there is none: $PYHA_CONF (though the file be missing), else
    $HOME/.config/pyha/pyha.toml, else `system`.

    `secure`: the process runs with more rights than its user has (AT_SECURE); then only `system` counts, because the
    file names libraries that run with those rights.
    """
    if not secure:
        if named := environ.get("PYHA_CONF"):
            return named
        own = os.path.join(environ.get("HOME", ""), ".config/pyha/pyha.toml")
        if os.path.isabs(own) and os.path.lexists(own):
            return own
    return system if os.path.lexists(system) else None


def load(path: str) -> Configuration:
    """The configuration in the file at the absolute `path`. Raises ConfigurationError, with all of the file's
    errors."""
    configuration, errors = read(path)
    if errors:
        raise ConfigurationError(path, errors)
    return configuration


def read(path: str) -> tuple[Configuration, tuple[str, ...]]:
    """As `load`, but errors in the content are handed back beside what could be read (`schema.read`); a file that
    cannot be read, must not be believed or is no TOML still raises ConfigurationError."""
    try:
        document = tomllib.loads(trusted.read(path, LIMIT).decode())
    except trusted.FileRefused as error:
        raise ConfigurationError(path, (str(error),)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(path, ("is not UTF-8",)) from None
    except (ValueError, RecursionError) as error:
        # Beside tomllib.TOMLDecodeError, a ValueError: a number of more than 4,300 digits, and arrays nested too
        # deeply.
        raise ConfigurationError(path, (f"is not TOML: {error}",)) from None
    return schema.read(document)
