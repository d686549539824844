"""What the operator does with a new group: lines for each kind of application.

Texts only. Each is what the README says of that application.
"""

from pyha.abi.native import module_path
from pyha.runtime.settings import GroupSettings


def after_creation(settings: GroupSettings, configuration: str, backup: str | None) -> str:
    """The text that `pyha group create` ends with."""
    module = module_path()
    members = ", ".join(member.name for member in settings.members)
    sealed = (
        f"The domain keys' backup is in {backup}: keep it, and the private key it is sealed to, apart."
        if backup is not None
        else "No backup of the domain keys was made (--backup-to): while one member lives, it is not needed."
    )
    return f"""Group "{settings.label}" (serial {settings.serial}) over {members}.
Configuration: {configuration}
{sealed}

Module: {module}
  where the configuration is not in /etc/pyha/pyha.toml, programs need PYHA_CONF={configuration}

pkcs11-tool  pkcs11-tool --module {module} --token-label {settings.label!r} --login --list-objects
OpenSSL      in openssl.cnf: [pkcs11] engine_id = pkcs11, MODULE_PATH = {module}, init = 1
             key: "pkcs11:token={settings.label};object=KEY"
Java         pkcs11.cfg: name = {_java(settings.label)}
                         library = {module}
                         slotListIndex = 0
             keytool -providerClass sun.security.pkcs11.SunPKCS11 -providerArg pkcs11.cfg -storetype PKCS11 -list
nginx        env OPENSSL_CONF; env PYHA_CONF;   (at the top level)
             ssl_certificate_key "engine:pkcs11:pkcs11:token={settings.label};object=KEY;pin-value=...";"""


def _java(label: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in label)
