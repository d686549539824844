"""An application that knows nothing of members and signs without end, in several threads, as `signer.py` does.

usage: steady_signer.py MODULE TOKEN-LABEL THREADS      (the PIN is in the environment variable PIN)

It ends when its stdin does. One line for each signature goes to stdout: the key's label, the message's number, the
seconds that the signature took, the signature in hexadecimal. A call that fails is a line too: `failed`, the number,
the seconds, the error; the thread goes on.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import count

import pkcs11

from conformance.signer import message


def _sign(token: pkcs11.Token, numbers: Iterator[int], stop: threading.Event) -> None:
    with token.open() as session:
        rsa = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="rsa")
        ec = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="ec")
        assert isinstance(rsa, pkcs11.SignMixin)
        assert isinstance(ec, pkcs11.SignMixin)
        while not stop.is_set():
            number = next(numbers)
            data = message(number)
            start = time.monotonic()
            try:
                if number % 2:
                    name, text = "ec", ec.sign(sha256(data).digest(), mechanism=pkcs11.Mechanism.ECDSA).hex()
                else:
                    name, text = "rsa", rsa.sign(data, mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS).hex()
            except pkcs11.PKCS11Error as failure:
                name, text = "failed", type(failure).__name__
            # One write a line: those of several threads do not mix.
            os.write(1, f"{name} {number} {time.monotonic() - start:.4f} {text}\n".encode())


def main(module: str, label: str, threads: int) -> int:
    """Exit status 0."""
    library = pkcs11.lib(module)
    token = library.get_token(token_label=label)
    numbers, stop = count(), threading.Event()
    # Login belongs to the token: one session with the PIN, held open, lets all threads sign.
    with token.open(user_pin=os.environ["PIN"]):
        workers = [threading.Thread(target=_sign, args=(token, numbers, stop)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        sys.stdin.read()
        stop.set()
        for worker in workers:
            worker.join()
    library.finalize()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
