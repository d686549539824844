"""An application that knows nothing of members: it opens one token and signs with two keys, in four threads.

usage: signer.py MODULE TOKEN-LABEL COUNT      (the PIN is in the environment variable PIN)

Messages are `message N` for N from 0 to COUNT - 1, signed in turn by the RSA key `rsa` (SHA256-RSA-PKCS) and the EC key
`ec` (ECDSA over the message's SHA-256). One line for each signature goes to stdout: the key's label, N, the signature
in hexadecimal. The first call that fails ends the program with exit status 1.
"""

import os
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from itertools import count

import pkcs11

THREADS = 4


def message(number: int) -> bytes:
    """What the signature of this number is over."""
    return b"message %d" % number


def _sign(token: pkcs11.Token, numbers: Iterator[int], total: int, failures: list[pkcs11.PKCS11Error]) -> None:
    try:
        with token.open() as session:
            rsa = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="rsa")
            ec = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="ec")
            assert isinstance(rsa, pkcs11.SignMixin)
            assert isinstance(ec, pkcs11.SignMixin)
            for number in numbers:
                if number >= total or failures:
                    return
                if number % 2:
                    name, signature = "ec", ec.sign(sha256(message(number)).digest(), mechanism=pkcs11.Mechanism.ECDSA)
                else:
                    name, signature = "rsa", rsa.sign(message(number), mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS)
                # One write a line: those of several threads do not mix.
                os.write(1, f"{name} {number} {signature.hex()}\n".encode())
    except pkcs11.PKCS11Error as failure:
        failures.append(failure)


def main(module: str, label: str, total: int) -> int:
    """Exit status: 1 where a call failed."""
    library = pkcs11.lib(module)
    token = library.get_token(token_label=label)
    failures: list[pkcs11.PKCS11Error] = []
    numbers = count()
    # Login belongs to the token: one session with the PIN, held open, lets all threads sign.
    with token.open(user_pin=os.environ["PIN"]):
        threads = [threading.Thread(target=_sign, args=(token, numbers, total, failures)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    library.finalize()
    for failure in failures:
        print(f"a call failed: {type(failure).__name__} {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
