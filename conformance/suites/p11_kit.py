"""p11-kit: the module registered for the user, through p11-kit-proxy.so, and through its remoting."""

from conformance.steps import Step, Suite

# p11-kit reads no user's configuration as root.
_USER = "$([ $(id -u) != 0 ] || echo unshare --user --map-user=1000) "
_TOOL = (
    _USER
    + "pkcs11-tool --module $(find /usr/lib -name p11-kit-proxy.so | head -1) --token-label $TOKEN --login --pin $PIN"
)
_REMOTE = (
    "pkcs11-tool --module $(find /usr/lib -name p11-kit-client.so | head -1) --token-label $TOKEN --login --pin $PIN"
)
_SERVER = (
    'eval "$(p11-kit server --provider $MODULE "pkcs11:token=$TOKEN")" && trap "kill $P11_KIT_SERVER_PID" EXIT && '
)

SUITE = Suite(
    "p11-kit",
    [
        Step(
            "list modules",
            _USER + "p11-kit list-modules | sed -n '/^tested:/,/^[a-z0-9-]*:/p'",
            hide=r"(?<=tested: ).*",
            keep=r"tested:|token: \S",
        ),
        Step("p11tool lists tokens", _USER + "p11tool --list-tokens", keep="Label|Type|Flags"),
        Step(
            "proxy: make a key", f"{_TOOL} --keypairgen --key-type rsa:2048 --id 01 --label rsa", keep="", changes=True
        ),
        Step(
            "proxy: sign",
            f"{_TOOL} --sign -m SHA256-RSA-PKCS --id 01 -i message -o sig && {_TOOL} --read-object "
            f"--type pubkey --id 01 "
            "-o rsa.der && openssl dgst -sha256 -keyform DER -verify rsa.der -signature sig message",
        ),
        Step(
            "remoting: list",
            f"{_SERVER}{_REMOTE} --list-objects",
            keep="Object|label|ID|Usage",
            blocks=True,
        ),
        Step(
            "remoting: make a key",
            f"{_SERVER}{_REMOTE} --keypairgen --key-type EC:prime256v1 --id 02 --label ec",
            keep="Object|label|ID|Usage",
            changes=True,
        ),
        Step(
            "remoting: delete it",
            f"{_SERVER}{_REMOTE} --delete-object --type privkey --id 02",
            changes=True,
        ),
        Step(
            "remoting: sign",
            f"{_SERVER}{_REMOTE} --sign -m SHA256-RSA-PKCS --id 01 -i message -o sig && "
            "openssl dgst -sha256 -keyform DER -verify rsa.der -signature sig message",
        ),
        Step("proxy: delete", f"{_TOOL} --delete-object --type privkey --id 01", changes=True),
    ],
    programs=("p11-kit", "p11tool", "pkcs11-tool", "openssl"),
    files={
        ".config/pkcs11/pkcs11.conf": "user-config: only\n",
        ".config/pkcs11/modules/tested.module": "module: $MODULE\n",
        "message": "one virtual token over three real ones\n",
    },
    environment={"XDG_CONFIG_HOME": "$SCRATCH/.config", "XDG_RUNTIME_DIR": "$SCRATCH"},
)
