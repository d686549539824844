"""What a Python application does through python-pkcs11, a line of output a thing. Argument: a part."""

# The library has no types.
# mypy: ignore-errors

import os
import sys
from collections.abc import Callable
from typing import Any

import pkcs11
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_named_curve_parameters

Attribute, Mechanism, KeyType = pkcs11.Attribute, pkcs11.Mechanism, pkcs11.KeyType
BLOCK = bytes(range(16))


def does(name: str, thing: Callable[[], Any]) -> Any:
    try:
        result = thing()
    except PKCS11Error as error:
        print(f"{name}: failed: {type(error).__name__} {error}")
        return None
    if isinstance(result, bool | int | str | bytes):
        print(f"{name}: {result!r}")
    else:
        print(f"{name}: ok")
    return result


def token() -> Any:
    return pkcs11.lib(os.environ["MODULE"]).get_token(token_label=os.environ["TOKEN"])


def keys(session: Any) -> None:
    iv = BLOCK
    for length in (128, 192, 256):
        key = does(f"AES {length}", lambda length=length: session.generate_key(KeyType.AES, length))
        for mechanism in (Mechanism.AES_CBC_PAD, Mechanism.AES_CBC):
            secret = key.encrypt(b"0123456789abcdef" * 4, mechanism=mechanism, mechanism_param=iv)
            does(
                f"{mechanism.name} {length}",
                lambda s=secret, k=key, m=mechanism: k.decrypt(s, mechanism=m, mechanism_param=iv),
            )
        parts = key.encrypt([b"ab" * 8, b"cd" * 8, b"e"], mechanism_param=iv)
        whole = b"".join(parts)
        does(f"AES in parts {length}", lambda w=whole, k=key: b"".join(k.decrypt([w[:20], w[20:]], mechanism_param=iv)))
    known = does(
        "import AES",
        lambda: session.create_object(
            {Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.VALUE: BLOCK}
        ),
    )
    does("AES of known bytes", lambda: known.encrypt(BLOCK, mechanism=Mechanism.AES_ECB))
    public, private = does("RSA pair", lambda: session.generate_keypair(KeyType.RSA, 2048))
    for mechanism in (Mechanism.SHA256_RSA_PKCS, Mechanism.SHA512_RSA_PKCS, Mechanism.RSA_PKCS):
        signature = private.sign(b"message", mechanism=mechanism)
        does(f"RSA {mechanism.name}", lambda s=signature, m=mechanism: public.verify(b"message", s, mechanism=m))
        does(f"RSA {mechanism.name}, not", lambda s=signature, m=mechanism: public.verify(b"massage", s, mechanism=m))
    does("RSA decrypt", lambda: private.decrypt(public.encrypt(b"message")))
    does("wrap what must not leave", lambda: public.wrap_key(known))
    leaves = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
    open_key = does("AES that may leave", lambda: session.generate_key(KeyType.AES, 256, template=leaves))
    wrapped = does("RSA wrap", lambda: len(public.wrap_key(open_key))) and public.wrap_key(open_key)
    back = does("RSA unwrap", lambda: private.unwrap_key(pkcs11.ObjectClass.SECRET_KEY, KeyType.AES, wrapped))
    secret = open_key.encrypt(b"message", mechanism_param=iv)
    does("the unwrapped key is the same", lambda: back.decrypt(secret, mechanism_param=iv))
    for curve in ("secp256r1", "secp384r1"):
        parameters = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
        )
        public, private = does(f"EC pair {curve}", parameters.generate_keypair)
        signature = private.sign(b"12345678901234567890", mechanism=Mechanism.ECDSA)
        does(
            f"ECDSA {curve}",
            lambda s=signature, p=public: p.verify(b"12345678901234567890", s, mechanism=Mechanism.ECDSA),
        )
    does("digest", lambda: session.digest(b"message", mechanism=Mechanism.SHA256))
    does("digest in parts", lambda: session.digest((b"mes", b"sage"), mechanism=Mechanism.SHA256))
    does("random", lambda: len(session.generate_random(256)))
    does("seed", lambda: session.seed_random(b"seed"))


def objects(session: Any) -> None:
    stored = {Attribute.TOKEN: True}
    for label in ("one", "two", "three"):
        does(f"store {label}", lambda label=label: session.generate_key(KeyType.AES, 256, label=label, store=True))
    does("store a pair", lambda: session.generate_keypair(KeyType.RSA, 2048, label="pair", id=b"\1", store=True))
    does("count", lambda: len(list(session.get_objects({**stored, Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY}))))
    does("find by label", lambda: session.get_key(label="two").label)
    does("not there", lambda: session.get_key(label="four"))
    key = session.get_key(label="three")
    for attribute in (Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.ENCRYPT, Attribute.VALUE_LEN):
        does(f"read {attribute.name}", lambda attribute=attribute: key[attribute])

    def rename() -> None:
        key[Attribute.LABEL] = "renamed"

    does("rename", rename)
    does("find the renamed", lambda: session.get_key(label="renamed").label)
    passing = {Attribute.TOKEN: False, Attribute.LABEL: "passing"}
    does("copy to a session object", lambda: session.get_key(label="one").copy(passing).label)
    does("copy to a token object", lambda: session.get_key(label="one").copy({Attribute.LABEL: "copied"}).label)
    for label in ("one", "two", "renamed", "copied", "passing"):
        does(f"destroy {label}", lambda label=label: session.get_key(label=label).destroy())
    for each in list(session.get_objects({Attribute.LABEL: "pair"})):
        does("destroy of the pair", each.destroy)
    does("count afterwards", lambda: len(list(session.get_objects(stored))))


def main() -> None:
    part = {"keys": keys, "objects": objects}[sys.argv[1]]
    with token().open(rw=True, user_pin=os.environ["PIN"]) as session:
        part(session)


main()
