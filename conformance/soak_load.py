"""The application of `make soak`: one process, several threads, every kind of work, each answer checked at once.

usage: soak_load.py MODULE TOKEN-LABEL THREADS SEED NAME      (the PIN is in the environment variable PIN)

It works until its stdin ends. Lines on stdin: `changes on` and `changes off` let threads make and delete token objects,
or have them stop: `calm` is the answer when none is being made or deleted any more. Between `outage on` and `outage
off` a call may find no member (CKR_DEVICE_ERROR, CKR_TOKEN_NOT_PRESENT); afterwards the same sessions and handles have
to work again. NAME begins the labels of what this application makes: several can use one group. Lines on stdout are
JSON, one a line: {"count": ...} twice a second, {"failed": text} at once, {"calm": true}, {"done": ...} at the end.

Knows nothing of members. A thread that has met a failure ends: it is told once, and one is enough.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name
from tests.client import EC, Client, aes_key, ec_pair

CHURN = "churn-"
"""What the labels of keys that come and go begin with."""

_LATEST = 60.0
"""Seconds after which a call counts as lost. Far beyond one deadline a member: a busy machine is no failure."""


class Wrong(Exception):
    """An answer that is not what it should be. `str()` says which."""


class Gone(Wrong):
    """The answer of a group that no member of is left."""


_GONE = (ck.CKR_DEVICE_ERROR, ck.CKR_TOKEN_NOT_PRESENT)


def check(rv: int, call: str) -> None:
    """Raises Wrong for anything but CKR_OK."""
    if rv != ck.CKR_OK:
        raise (Gone if rv in _GONE else Wrong)(f"{call} answered {rv_name(rv)}")


def must(holds: bool, text: str) -> None:
    """Raises Wrong."""
    if not holds:
        raise Wrong(text)


class Keys:
    """The keys that stay all the time, and what is known of them outside."""

    def __init__(self, app: Client, session: int, name: str) -> None:
        self.name = name
        self.aes_value = os.urandom(32)
        rsa_label, aes_label = self.label("rsa"), self.label("aes")
        named = {ck.CKA_TOKEN: True, ck.CKA_LABEL: rsa_label, ck.CKA_ID: rsa_label}
        public = {**named, ck.CKA_MODULUS_BITS: 2048, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1", ck.CKA_VERIFY: True}
        rv, self.rsa_public, self.rsa = app.pair(
            session, ck.CKM_RSA_PKCS_KEY_PAIR_GEN, public, {**named, ck.CKA_SIGN: True}
        )
        check(rv, "C_GenerateKeyPair")
        modulus = app.get(session, self.rsa_public, ck.CKA_MODULUS)[1]
        self.rsa_key = rsa.RSAPublicNumbers(65537, int.from_bytes(modulus)).public_key()
        self.ec_public, self.ec = ec_pair(app, session, self.label("ec"))
        self.ec_key = point_of(app, session, self.ec_public)
        rv, self.aes = app.create(
            session,
            {
                ck.CKA_CLASS: ck.CKO_SECRET_KEY,
                ck.CKA_KEY_TYPE: ck.CKK_AES,
                ck.CKA_TOKEN: True,
                ck.CKA_LABEL: aes_label,
                ck.CKA_ID: aes_label,
                ck.CKA_ENCRYPT: True,
                ck.CKA_DECRYPT: True,
                ck.CKA_EXTRACTABLE: True,
                ck.CKA_VALUE: self.aes_value,
            },
        )
        check(rv, "C_CreateObject")

    def label(self, kind: str) -> bytes:
        """CKA_LABEL and CKA_ID of what is this application's."""
        return f"{self.name}{kind}".encode()


def point_of(app: Client, session: int, public: int) -> ec.EllipticCurvePublicKey:
    """The public key of a P-256 pair."""
    rv, point = app.get(session, public, ck.CKA_EC_POINT)
    check(rv, "C_GetAttributeValue")
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])


def verify_ec(key: ec.EllipticCurvePublicKey, signature: bytes, digest: bytes) -> None:
    """Raises Wrong."""
    must(len(signature) == 64, f"an EC signature of {len(signature)} bytes")
    numbers = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        key.verify(encode_dss_signature(*numbers), digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        raise Wrong("an EC signature does not verify") from None


class Load:
    """What all threads share. `counts`: calls that were made and checked, by kind."""

    def __init__(self, app: Client, slot: int, keys: Keys) -> None:
        self.app, self.slot, self.keys = app, slot, keys
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.ending = threading.Event()
        self.changes = threading.Event()
        self.outage = threading.Event()
        self._said = threading.Lock()
        self._changing = 0
        self._calm = threading.Condition()

    def say(self, **what: Any) -> None:
        """One line of output."""
        with self._said:
            os.write(1, json.dumps(what).encode() + b"\n")

    def counted(self, kind: str, seconds: float) -> None:
        """One operation was right."""
        with self._said:
            self.counts[kind] += 1
            self.longest = max(self.longest, seconds)

    def enter_change(self) -> bool:
        """Whether a token object may be made and deleted now; then `leave_change` follows."""
        with self._calm:
            if not self.changes.is_set():
                return False
            self._changing += 1
            return True

    def leave_change(self) -> None:
        """It is over."""
        with self._calm:
            self._changing -= 1
            self._calm.notify_all()

    def stop_changes(self) -> None:
        """Until none is under way."""
        with self._calm:
            self.changes.clear()
            self._calm.wait_for(lambda: self._changing == 0, _LATEST)
            must(self._changing == 0, "a change did not end")


class Worker(threading.Thread):
    """One thread with a session of its own."""

    def __init__(self, load: Load, number: int, seed: str) -> None:
        super().__init__(daemon=True)
        self.load, self.number = load, number
        self.random = Random(f"{seed} {number}")
        self.since: tuple[str, float] | None = None
        self._made = 0
        rv, self.session = load.app.open(load.slot)
        check(rv, "C_OpenSession")
        self._work: dict[str, tuple[int, Callable[[], None]]] = {
            "rsa": (20, self.rsa),
            "ec": (30, self.ec),
            "cipher": (15, self.cipher),
            "digest": (10, self.digest),
            "parts": (5, self.parts),
            "random": (10, self.draw),
            "find": (6, self.find),
            "reopen": (2, self.reopen),
            "aes key": (1, self.make_aes),
            "ec pair": (1, self.make_pair),
        }

    def run(self) -> None:
        names, weights = list(self._work), [weight for weight, _ in self._work.values()]
        kind = ""
        try:
            while not self.load.ending.is_set():
                (kind,) = self.random.choices(names, weights)
                start = time.monotonic()
                self.since = kind, start
                if self._done(kind):
                    self.load.counted(kind, time.monotonic() - start)
                self.since = None
        except Wrong as wrong:
            self.load.say(failed=f"thread {self.number}, {kind}: {wrong}")
        self.since = None

    def _done(self, kind: str) -> bool:
        """Do it; False where no member was there, as it may be now. Raises Wrong."""
        allowed = self.load.outage.is_set()
        try:
            self._work[kind][1]()
        except Gone:
            if not (allowed or self.load.outage.is_set()):
                raise
            self.load.counted("found no member", 0)
            self.load.ending.wait(0.02)
            return False
        return True

    def rsa(self) -> None:
        data = self.random.randbytes(40)
        rv, signature = self.load.app.sign(self.session, ck.CKM_SHA256_RSA_PKCS, self.load.keys.rsa, data)
        check(rv, "C_Sign")
        try:
            self.load.keys.rsa_key.verify(signature, data, padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            raise Wrong("an RSA signature does not verify") from None

    def ec(self) -> None:
        digest = self.random.randbytes(32)
        rv, signature = self.load.app.sign(self.session, ck.CKM_ECDSA, self.load.keys.ec, digest)
        check(rv, "C_Sign")
        verify_ec(self.load.keys.ec_key, signature, digest)

    def cipher(self) -> None:
        app, keys = self.load.app, self.load.keys
        vector, data = self.random.randbytes(16), self.random.randbytes(self.random.randrange(1, 2000))
        mechanism = (ck.CKM_AES_CBC_PAD, vector)
        check(app.start("Encrypt", self.session, mechanism, keys.aes), "C_EncryptInit")
        rv, _, secret = app.out("Encrypt", self.session, data)
        check(rv, "C_Encrypt")
        padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES(keys.aes_value), modes.CBC(vector)).encryptor()
        must(secret == encryptor.update(padder.update(data) + padder.finalize()), "a wrong cipher text")
        check(app.start("Decrypt", self.session, mechanism, keys.aes), "C_DecryptInit")
        rv, _, plain = app.out("Decrypt", self.session, secret)
        check(rv, "C_Decrypt")
        must(plain == data, "a wrong plain text")

    def digest(self) -> None:
        data = self.random.randbytes(300)
        check(self.load.app.start("Digest", self.session, ck.CKM_SHA256), "C_DigestInit")
        rv, _, found = self.load.app.out("Digest", self.session, data)
        check(rv, "C_Digest")
        must(found == hashlib.sha256(data).digest(), "a wrong digest")

    def parts(self) -> None:
        app, expected = self.load.app, hashlib.sha256()
        check(app.start("Digest", self.session, ck.CKM_SHA256), "C_DigestInit")
        for _ in range(self.random.randrange(1, 8)):
            part = self.random.randbytes(200)
            expected.update(part)
            check(app.feed("DigestUpdate", self.session, part), "C_DigestUpdate")
        rv, _, found = app.out("DigestFinal", self.session)
        check(rv, "C_DigestFinal")
        must(found == expected.digest(), "a wrong digest of parts")

    def draw(self) -> None:
        first, second = (self.load.app.random(self.session, 24) for _ in range(2))
        check(first[0] or second[0], "C_GenerateRandom")
        must(first[1] != second[1] and any(first[1]), "random bytes that are none")

    def find(self) -> None:
        keys = self.load.keys
        for label, known in (
            ("rsa", {keys.rsa, keys.rsa_public}),
            ("ec", {keys.ec, keys.ec_public}),
            ("aes", {keys.aes}),
        ):
            self.holds(keys.label(label), known)

    def holds(self, label: bytes, known: set[int]) -> None:
        """Exactly these objects have the label. Raises Wrong."""
        rv, found = self.load.app.find(self.session, {ck.CKA_LABEL: label})
        check(rv, "C_FindObjects")
        more = set(found) - known
        if more and {self._shown(each) for each in more} <= {self._shown(each) for each in known}:
            # SoftHSM may give one file two handles in a process: an index that another process's change sets off sees
            # it before who is making it has filed it. What is there twice stays when this is deleted, and is found in
            # the end on the token itself.
            self.load.counted("shown twice", 0)
            found = [each for each in found if each not in more]
        must(len(found) == len(known) and set(found) == known, f"{label.decode()}: found {found}, not {sorted(known)}")

    def _shown(self, handle: int) -> tuple[bytes | None, ...]:
        kinds = (ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_LABEL, ck.CKA_ID)
        return tuple(self.load.app.get(self.session, handle, kind)[1] for kind in kinds)

    def reopen(self) -> None:
        rv, fresh = self.load.app.open(self.load.slot)
        check(rv, "C_OpenSession")
        old, self.session = self.session, fresh
        check(self.load.app.close(old), "C_CloseSession")

    def make_aes(self) -> None:
        self.changed(self._churn(), self._aes)

    def make_pair(self) -> None:
        self.changed(self._churn(), self._pair)

    def _churn(self) -> bytes:
        self._made += 1
        return f"{CHURN}{self.load.keys.name}{self.number}-{self._made}".encode()

    def changed(self, label: bytes, make: Callable[[bytes], set[int]]) -> None:
        """A token object that is made, used, found once, deleted, and then not found."""
        if not self.load.enter_change():
            return
        try:
            made = make(label)
            self.holds(label, made)
            for handle in made:
                check(self.load.app.destroy(self.session, handle), "C_DestroyObject")
            self.holds(label, set())
            self.load.counted("changes", 0)
        finally:
            self.load.leave_change()

    def _aes(self, label: bytes) -> set[int]:
        app, key = self.load.app, 0
        try:
            key = aes_key(app, self.session, label)
        except AssertionError as failed:
            raise Wrong(f"C_GenerateKey answered {rv_name(int(str(failed).split()[0], 16))}") from None
        mechanism = (ck.CKM_AES_CBC_PAD, bytes(16))
        check(app.start("Encrypt", self.session, mechanism, key), "C_EncryptInit with a new key")
        rv, _, secret = app.out("Encrypt", self.session, b"something")
        check(rv, "C_Encrypt with a new key")
        check(app.start("Decrypt", self.session, mechanism, key), "C_DecryptInit with a new key")
        rv, _, plain = app.out("Decrypt", self.session, secret)
        check(rv, "C_Decrypt with a new key")
        must(plain == b"something", "a wrong plain text with a new key")
        return {key}

    def _pair(self, label: bytes) -> set[int]:
        app = self.load.app
        named = {ck.CKA_TOKEN: True, ck.CKA_LABEL: label, ck.CKA_ID: label}
        public = {**named, ck.CKA_EC_PARAMS: EC, ck.CKA_VERIFY: True}
        rv, ours, theirs = app.pair(self.session, ck.CKM_EC_KEY_PAIR_GEN, public, {**named, ck.CKA_SIGN: True})
        check(rv, "C_GenerateKeyPair")
        digest = self.random.randbytes(32)
        rv, signature = app.sign(self.session, ck.CKM_ECDSA, theirs, digest)
        check(rv, "C_Sign with a new key")
        verify_ec(point_of(app, self.session, ours), signature, digest)
        return {ours, theirs}


def watch(load: Load, workers: list[Worker]) -> None:
    """Tell how it goes, and which call never came back."""
    while not load.ending.wait(0.5):
        now = time.monotonic()
        for worker in workers:
            since = worker.since
            if since is not None and now - since[1] > _LATEST:
                load.say(failed=f"thread {worker.number}: {since[0]} has not come back for {_LATEST:g} s")
                os._exit(1)
        # The module lives in this very interpreter: what it forgets to let go is seen here. (Not by gc.get_objects():
        # tuples that another thread is just making break when somebody holds them.)
        load.say(count=dict(load.counts), longest=load.longest, threads=len(workers), objects=sys.getallocatedblocks())


def main(module: str, label: str, threads: int, seed: str, name: str) -> int:
    """Exit status."""
    app = Client(module)
    check(app.initialize(flags=ck.CKF_OS_LOCKING_OK), "C_Initialize")
    slot = app.slot_of(label)
    first = app.logged_in(slot, os.environ["PIN"])
    load = Load(app, slot, Keys(app, first, name))
    workers = [Worker(load, number, seed) for number in range(threads)]
    for worker in workers:
        worker.start()
    watching = threading.Thread(target=watch, args=(load, workers), daemon=True)
    watching.start()
    for line in sys.stdin:
        if line.strip() == "changes on":
            load.changes.set()
        elif line.strip() == "outage on":
            load.outage.set()
        elif line.strip() == "outage off":
            load.outage.clear()
        else:
            load.stop_changes()
            load.say(calm=True)
    load.ending.set()
    for worker in workers:
        worker.join(_LATEST)
        if worker.is_alive():
            load.say(failed=f"thread {worker.number} did not end")
            os._exit(1)
    watching.join()
    check(app.finalize(), "C_Finalize")
    load.say(done=dict(load.counts), longest=load.longest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
