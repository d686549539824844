"""What a Python application does through PyKCS11, a line of output a thing."""

# The library has no types.
# mypy: ignore-errors

import os
from collections.abc import Callable
from typing import Any

import PyKCS11
from PyKCS11 import PyKCS11Error


def does(name: str, thing: Callable[[], Any]) -> Any:
    try:
        result = thing()
    except PyKCS11Error as error:
        print(f"{name}: failed: {error}")
        return None
    print(f"{name}: {result!r}" if isinstance(result, bool | int | str) else f"{name}: ok")
    return result


def main() -> None:
    library = PyKCS11.PyKCS11Lib()
    library.load(os.environ["MODULE"])
    slots = library.getSlotList(tokenPresent=True)
    slot = next(s for s in slots if library.getTokenInfo(s).label.strip() == os.environ["TOKEN"])
    session = library.openSession(slot, PyKCS11.CKF_SERIAL_SESSION | PyKCS11.CKF_RW_SESSION)
    does("login", lambda: session.login(os.environ["PIN"]))
    does("login again", lambda: session.login(os.environ["PIN"]))
    aes = does(
        "AES",
        lambda: session.generateKey(
            [
                (PyKCS11.CKA_CLASS, PyKCS11.CKO_SECRET_KEY),
                (PyKCS11.CKA_KEY_TYPE, PyKCS11.CKK_AES),
                (PyKCS11.CKA_TOKEN, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_PRIVATE, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_ENCRYPT, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_DECRYPT, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_LABEL, "aes"),
                (PyKCS11.CKA_VALUE_LEN, 32),
            ],
            PyKCS11.MechanismAESGENERATEKEY,
        ),
    )
    for name, mechanism in (
        ("CBC", PyKCS11.Mechanism(PyKCS11.CKM_AES_CBC_PAD, "0102030405060708")),
        ("GCM", PyKCS11.AES_GCM_Mechanism(bytes(12), b"aad", 128)),
    ):
        secret = does(f"encrypt {name}", lambda m=mechanism: session.encrypt(aes, b"message", m))
        does(f"decrypt {name}", lambda m=mechanism, s=secret: bytes(session.decrypt(aes, bytes(s), m)).decode())
    public, private = does(
        "RSA pair",
        lambda: session.generateKeyPair(
            [
                (PyKCS11.CKA_CLASS, PyKCS11.CKO_PUBLIC_KEY),
                (PyKCS11.CKA_TOKEN, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_VERIFY, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_MODULUS_BITS, 2048),
                (PyKCS11.CKA_PUBLIC_EXPONENT, (1, 0, 1)),
                (PyKCS11.CKA_ID, (1,)),
            ],
            [
                (PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY),
                (PyKCS11.CKA_TOKEN, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_PRIVATE, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_SIGN, PyKCS11.CK_TRUE),
                (PyKCS11.CKA_ID, (1,)),
            ],
        ),
    )
    mechanism = PyKCS11.Mechanism(PyKCS11.CKM_SHA256_RSA_PKCS)
    signature = does("sign", lambda: session.sign(private, b"message", mechanism))
    does("verify", lambda: bool(session.verify(public, b"message", signature, mechanism)))
    does("a wrong signature", lambda: bool(session.verify(public, b"massage", signature, mechanism)))
    pss = PyKCS11.RSA_PSS_Mechanism(PyKCS11.CKM_SHA256_RSA_PKCS_PSS, PyKCS11.CKM_SHA256, PyKCS11.CKG_MGF1_SHA256, 32)
    signature = does("sign PSS", lambda: session.sign(private, b"message", pss))
    does("verify PSS", lambda: bool(session.verify(public, b"message", signature, pss)))
    does("digest", lambda: bytes(session.digest(b"message")).hex()[:24])
    does("count", lambda: len(session.findObjects()))
    does("attributes", lambda: str(session.getAttributeValue(aes, [PyKCS11.CKA_LABEL, PyKCS11.CKA_SENSITIVE])))
    does("rename", lambda: session.setAttributeValue(aes, [(PyKCS11.CKA_LABEL, "renamed")]))
    for each in (aes, public, private):
        does("destroy", lambda each=each: session.destroyObject(each))
    does("count afterwards", lambda: len(session.findObjects()))
    does("logout", session.logout)
    does("close", session.closeSession)


main()
