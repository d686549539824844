"""`make demo`: an unmodified pkcs11-tool over three real tokens as one, and the loss of one of them under load.

Every command line that is shown is run as it is shown. Three SoftHSM tokens are made in a temporary directory, which is
removed at the end; no configuration of the user is read or written, and root is not needed. Exit status 1 where
anything did not happen as it is said here.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from conformance import tree
from conformance.burst import PublicKeys, burst, command_of, helper_of
from conformance.stage import Stage, Unexpected, p256_public_key

MEMBERS = ("hsm-a", "hsm-b", "hsm-c")
GROUP = "demo"
PIN = "1234"
SIGNATURES = 600
SOFTHSM = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)

_SLOT = f'pkcs11-tool --module "$MODULE" --token-label {GROUP}'
_USER = f"{_SLOT} --login --pin {PIN}"


def prepare(directory: Path, quiet: bool = False) -> Stage:
    """The stage: a SoftHSM store and variables that name the modules, which are shown unless it is to be `quiet`.
    Raises Unexpected where a tool is missing."""
    for tool in ("softhsm2-util", "pkcs11-tool", "openssl"):
        if shutil.which(tool) is None:
            raise Unexpected(f"{tool} is not installed: `make demo` would have installed it")
    softhsm = next((path for path in SOFTHSM if os.path.exists(path)), None)
    if softhsm is None:
        raise Unexpected(f"SoftHSM's library is at none of {', '.join(SOFTHSM)}")
    try:
        module = tree.module()
    except FileNotFoundError as missing:
        raise Unexpected(str(missing)) from None
    tree.write_command(directory / "bin")
    (directory / "tokens").mkdir()
    (directory / "softhsm2.conf").write_text(
        f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    (directory / "pin").touch(mode=0o600)
    (directory / "pin").write_text(PIN)
    variables = {
        "SOFTHSM2_CONF": f"{directory}/softhsm2.conf",
        "PYHA_CONF": f"{directory}/pyha.toml",
        "SOFTHSM": softhsm,
        "MODULE": module,
    }
    path = os.pathsep.join((f"{directory}/bin", str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    stage = Stage(directory, {**variables, "PATH": path})
    if quiet:
        return stage
    stage.say(
        "One virtual token over three real ones. Each command line below is run as it stands, in a temporary "
        "directory, with these variables:"
    )
    stage.output("\n".join(f"{name}={value}" for name, value in variables.items()))
    return stage


def make_group(stage: Stage) -> None:
    """Three tokens, and a group over them."""
    stage.step("Three tokens", "SoftHSM stands for three HSMs: three separate tokens, each with keys of its own.")
    for member in MEMBERS:
        stage.run(f"softhsm2-util --init-token --free --label {member} --pin {PIN} --so-pin 12345678", shown=0)
    stage.step(
        "One group over them",
        "`pyha group create` logs in to each token, looks whether it can serve, puts the group's domain keys there "
        "and writes the configuration.",
    )
    uris = " \\\n".join(f'"pkcs11:token={member}?module-path=$SOFTHSM"' for member in MEMBERS)
    stage.run(
        f"pyha group create {GROUP} \\\n{uris} \\\n"
        '--environment "SOFTHSM2_CONF=$SOFTHSM2_CONF" --pin-source "file:$PWD/pin"',
        shown=2,
        expect=f'Group "{GROUP}"',
    )
    shown = stage.run(f'pyha group show {GROUP} --pin-source "file:$PWD/pin"')
    if shown.count("CKR_OK") != len(MEMBERS):
        raise Unexpected("not every member is in")
    stage.good("every member holds the same domain keys: their check values agree")


def use_slot(stage: Stage) -> None:
    """What an application sees, two keys, a signature by each."""
    stage.step(
        "What an application sees",
        "An unmodified pkcs11-tool loads pyha's module, as it would load an HSM vendor's. It sees one slot.",
    )
    listed = stage.run('pkcs11-tool --module "$MODULE" --list-slots', expect="HA Virtual Card Slot")
    if listed.count("\nSlot ") != 1 or any(member in listed for member in MEMBERS):
        raise Unexpected("there is more than the one virtual slot")
    stage.good("one slot; the members' own are hidden")
    stage.step("Two keys", "It logs in and makes an RSA key and an EC key. Neither can be read out of a token.")
    stage.run(f"{_USER} \\\n--keypairgen --key-type rsa:2048 --id 01 --label rsa", shown=2)
    stage.run(f"{_USER} \\\n--keypairgen --key-type EC:prime256v1 --id 02 --label ec", shown=2)
    stage.step("Signatures", "It signs with both, and reads the public keys out for OpenSSL.")
    (stage.directory / "message").write_text("one virtual token over three real ones\n")
    stage.run(f"{_USER} \\\n--sign --mechanism SHA256-RSA-PKCS --id 01 --input-file message --output-file rsa.sig")
    stage.run("openssl dgst -sha256 -binary -out digest message")
    stage.run(
        f"{_USER} \\\n--sign --mechanism ECDSA --signature-format openssl --id 02 "
        "\\\n--input-file digest --output-file ec.sig"
    )
    stage.run(f"{_SLOT} \\\n--read-object --type pubkey --id 01 --output-file rsa.pub")
    listed = stage.run(f"{_SLOT} \\\n--list-objects --type pubkey --id 02", shown=1)
    (stage.directory / "ec.pub").write_bytes(p256_public_key(listed))
    stage.step("OpenSSL checks them outside", "OpenSSL here knows of no token: public key, signature and message.")
    for key in ("rsa", "ec"):
        line = f"openssl dgst -sha256 -keyform DER -verify {key}.pub -signature {key}.sig message"
        stage.run(line, expect="Verified OK")


def look_at_members(stage: Stage) -> None:
    """Each member by itself, without pyha: the keys are there, and they are the same keys."""
    stage.step(
        "Every member holds the keys",
        "Now pyha is left out: pkcs11-tool asks SoftHSM for each member by itself. Both private keys are there, "
        "beside the group's domain keys, which the virtual slot hides. And the RSA key of each member signs so that "
        "the public key from the virtual slot fits.",
    )
    for member in MEMBERS:
        own = f'pkcs11-tool --module "$SOFTHSM" --token-label {member} --login --pin {PIN}'
        listed = stage.run(f"{own} \\\n--list-objects --type privkey | grep label:")
        labels = [line.partition("label:")[2].strip() for line in listed.splitlines()]
        if sorted(label for label in labels if not label.startswith("pyha domain key")) != ["ec", "rsa"]:
            raise Unexpected(f"{member} does not hold both keys, once each")
        stage.run(
            f"{own} \\\n--sign --mechanism SHA256-RSA-PKCS --id 01 --input-file message --output-file {member}.sig "
            f"\\\n&& openssl dgst -sha256 -keyform DER -verify rsa.pub -signature {member}.sig message",
            expect="Verified OK",
        )
    stage.good(f"{', '.join(MEMBERS)}: the same two keys on each")


def spread_work(stage: Stage, keys: PublicKeys) -> None:
    """One application, many signatures, all members at work."""
    stage.step(
        "The work spreads",
        "One long-lived application (python-pkcs11, four threads) signs with both keys. Every signature is verified "
        "as it comes, outside the application. When it ends, the module says how many operations each member served: "
        "its log is told to write notices too.",
    )
    stage.run("printf '\\n[log]\\nlevel = \"notice\"\\n' >> pyha.toml")
    counts = served(stage, burst(stage, stage.environment["MODULE"], GROUP, PIN, keys, SIGNATURES))
    if min(counts.values()) < SIGNATURES // 20:
        raise Unexpected("the work did not spread over all members")
    stage.good(f"{SIGNATURES} signatures, all valid, made by all {len(MEMBERS)} members")


def lose_a_member(stage: Stage, keys: PublicKeys) -> None:
    """One application signs without pause while one of its helpers is killed."""
    victim, half = MEMBERS[1], SIGNATURES // 2
    stage.step(
        "A member dies, and the signing goes on",
        "The same application again. A helper process runs each member's library for it. In the middle of the work "
        f"the helper of {victim} is killed with SIGKILL.",
    )

    def kill(application: int) -> None:
        helper = helper_of(application, f"{GROUP}/{victim}")
        stage.output(f"{half} signatures verified; the helper of {victim} is process {helper}:\n{command_of(helper)}")
        stage.show(f"kill -KILL {helper}")
        os.kill(helper, signal.SIGKILL)

    said = burst(stage, stage.environment["MODULE"], GROUP, PIN, keys, SIGNATURES, half, kill)
    served(stage, said)
    if f"member {victim} lost" not in said:
        raise Unexpected(f"the application's module did not notice that {victim} was lost")
    stage.good(f"all {SIGNATURES} signatures came and are valid: no call of the application failed")


def served(stage: Stage, said: str) -> dict[str, int]:
    """Show what the module logged, and find the operations that each member served: one for each signature, so none
    was made twice. Raises Unexpected."""
    stage.output(said)
    words = said.partition(f'group "{GROUP}": served ')[2].split()[: len(MEMBERS)]
    counts = {name: int(count) for name, _, count in (word.partition("=") for word in words)}
    if tuple(counts) != MEMBERS or sum(counts.values()) != SIGNATURES:
        raise Unexpected("the module did not say which member served how much")
    return counts


def main() -> int:
    """Exit status."""
    # An end from outside cleans up as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="pyha-demo-") as directory:
            stage = prepare(Path(directory))
            make_group(stage)
            use_slot(stage)
            look_at_members(stage)
            keys = PublicKeys.load(stage.directory / "rsa.pub", stage.directory / "ec.pub")
            spread_work(stage, keys)
            lose_a_member(stage, keys)
    except Unexpected as unexpected:
        print(f"\nFAILED: {unexpected}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\nAll of it happened as it is said here, in {time.monotonic() - start:.0f} s. Nothing was left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
