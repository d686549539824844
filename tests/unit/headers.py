"""What the installed PKCS #11 headers say, found by compiling small C programs against them."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PRELUDE = "#include <stddef.h>\n#include <stdio.h>\n"


@dataclass(frozen=True)
class Header:
    """One installed header: how it is included, and the compiler's options for it."""

    include: str
    options: tuple[str, ...]

    def run(self, directory: Path, body: str) -> list[str]:
        """Compiles `body` as main() in `directory` and returns the lines it prints."""
        source, program = directory / "question.c", directory / "question"
        source.write_text(f"{_PRELUDE}{self.include}\nint main(void) {{\n{body}\nreturn 0; }}\n")
        subprocess.run(["gcc", *self.options, "-o", program, source], check=True)
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()

    def constants(self, directory: Path, names: Iterable[str]) -> dict[str, int]:
        """The values of those of `names` that the header defines."""
        lines = [f'#ifdef {name}\nprintf("%s %lu\\n", "{name}", (unsigned long) ({name}));\n#endif' for name in names]
        return {name: int(value) for name, value in (line.split() for line in self.run(directory, "\n".join(lines)))}


P11_KIT = Header("#define CRYPTOKI_COMPAT 1\n#include <p11-kit/pkcs11.h>", ("-isystem", "/usr/include/p11-kit-1", "-w"))
NSS = Header("#include <pkcs11.h>", ("-isystem", "/usr/include/nss", "-isystem", "/usr/include/nspr", "-w"))
