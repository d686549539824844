"""`make demo-failover`: members die, hang and are unplugged while an application signs, and come back by themselves.

Four SoftHSM tokens in a temporary directory, three active members and a standby one, each behind `pyha-chaos.so`, so
that it can be unplugged; recovery every second, a deadline of two. The application signs in several threads and knows
nothing of members; each of its signatures is verified here. What is shown of members is their published status
(`pyha status`), and the module's own log. Exit status 1 where a call failed, a signature is wrong or a member did not
come back.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.burst import PublicKeys, helper_of
from conformance.demo import PIN, prepare
from conformance.live import Row, Screen
from conformance.stage import LIMIT, Stage, Unexpected, p256_public_key
from pyha.cli import chaos_plan, config_write
from pyha.cli.status_reader import Reader, Seen
from pyha.cryptoki.names import rv_name
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import config
from pyha.runtime.settings import GroupSettings, LogLevel, MemberSettings

GROUP = "live"
MEMBERS = ("hsm-a", "hsm-b", "hsm-c", "hsm-d")
STANDBY = MEMBERS[-1]
THREADS = 6
DEADLINE = 2.0
RECOVERY = RecoverySettings(RecoveryMode.BACKGROUND, interval=1.0)
LENGTH = 25.0
"""Seconds that the application signs, and a few more where members are not back by then."""

STANDBY_SERVES = "no active member is left, standby members serve"
_GRACE = 20.0
_PERIOD = 0.2
_UNPLUGGED = "any -> dead CKR_DEVICE_REMOVED"
_SIGNER = Path(__file__).with_name("steady_signer.py")


# -- the set-up -----------------------------------------------------------------------------------------------------


def make_group(stage: Stage) -> None:
    """Tokens, group, keys; then its own configuration. Raises Unexpected."""
    for member in MEMBERS:
        _quietly(stage, f"softhsm2-util --init-token --free --label {member} --pin {PIN} --so-pin 12345678")
    uris = [f'"pkcs11:token={member}?module-path=$SOFTHSM"' for member in MEMBERS]
    _quietly(
        stage,
        f"pyha group create {GROUP} {' '.join(uris[:-1])} --standby {uris[-1]} "
        '--environment "SOFTHSM2_CONF=$SOFTHSM2_CONF" --pin-source "file:$PWD/pin"',
    )
    slot = f'pkcs11-tool --module "$MODULE" --token-label {GROUP}'
    for name, kind in (("rsa", "rsa:2048"), ("ec", "EC:prime256v1")):
        _quietly(stage, f"{slot} --login --pin {PIN} --keypairgen --key-type {kind} --id {len(name):02} --label {name}")
    _quietly(stage, f"{slot} --read-object --type pubkey --id 03 --output-file rsa.pub")
    listed = _quietly(stage, f"{slot} --list-objects --type pubkey --id 02")
    (stage.directory / "ec.pub").write_bytes(p256_public_key(listed))
    path = stage.environment["PYHA_CONF"]
    written = config.load(path)
    groups = tuple(_rehearsed(stage, group) for group in written.groups)
    log = f"file:{stage.directory}/pyha.log"
    changed = replace(written, groups=groups, log=log, log_level=LogLevel.NOTICE)
    config_write.write(path, config_write.render(changed))


def _rehearsed(stage: Stage, group: GroupSettings) -> GroupSettings:
    members = tuple(_behind_plan(stage, member) for member in group.members)
    return replace(group, members=members, deadline=DEADLINE, slow_deadline=DEADLINE, recovery=RECOVERY)


def _behind_plan(stage: Stage, member: MemberSettings) -> MemberSettings:
    plan = stage.directory / member.name
    _quietly(stage, f'pyha chaos set {plan} "module $SOFTHSM"')
    uri = replace(member.uri, module_path=chaos_plan.chaos_module())
    return replace(member, uri=uri, environment={**member.environment, "PYHA_CHAOS_PLAN": str(plan)})


def _quietly(stage: Stage, line: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=stage.directory,
        env=stage.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode != 0:
        raise Unexpected(f"{line}\n{done.stdout}")
    return done.stdout


# -- the application ------------------------------------------------------------------------------------------------


class Application:
    """Signs until it is told to end; every signature is verified as it comes. `verified`, `failures`: how many so far;
    `longest`: seconds of the slowest; `wrong`: why nothing more can be believed."""

    def __init__(self, stage: Stage, keys: PublicKeys) -> None:
        self.verified = 0
        self.failures = 0
        self.longest = 0.0
        self.wrong = ""
        self._numbers: set[int] = set()
        self._keys = keys
        self._stderr = (stage.directory / "application.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(_SIGNER), stage.environment["MODULE"], GROUP, str(THREADS)],
            cwd=stage.directory,
            env={**stage.environment, "PIN": PIN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                name, number, seconds, text = line.split()
                self.longest = max(self.longest, float(seconds))
                if name == "failed":
                    self.failures += 1
                    continue
                self._numbers.add(self._keys.check(f"{name} {number} {text}"))
                self.verified += 1
        except Unexpected as unexpected:
            self.wrong = str(unexpected)

    def runs(self) -> bool:
        """Whether it still signs as it should."""
        return self._process.poll() is None and not self.wrong

    def end(self) -> None:
        """Let it end, and verify what is still on its way. Raises Unexpected."""
        assert self._process.stdin is not None
        with_limit = threading.Timer(LIMIT, self._process.kill)
        with_limit.start()
        try:
            self._process.stdin.close()
            self._reader.join()
            status = self._process.wait()
        finally:
            with_limit.cancel()
        self._stderr.seek(0)
        said = self._stderr.read()
        if status != 0 or said:
            raise Unexpected(f"the application ended with exit status {status}: {said}")
        if self.wrong:
            raise Unexpected(self.wrong)
        if len(self._numbers) != self.verified:
            raise Unexpected("a signature came twice")

    def kill(self) -> None:
        """Whatever happened, nothing is left."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()


# -- what happens to members ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Act:
    """What is done to members, when, and what is said about it."""

    at: float
    text: str
    do: Callable[[], None]


def acts(stage: Stage, application: Application) -> list[Act]:
    """The course of events."""

    def send(number: int, member: str) -> Callable[[], None]:
        return lambda: os.kill(helper_of(application.pid, f"{GROUP}/{member}"), number)

    def plan(words: str, *members: str) -> Callable[[], None]:
        def change() -> None:
            for member in members:
                _quietly(stage, f"pyha chaos {words.replace('PLAN', member)}")

        return change

    unplug, plug_in = f'set PLAN "{_UNPLUGGED}"', "clear PLAN"
    return [
        Act(2.0, "hsm-a: its helper process is killed (SIGKILL)", send(signal.SIGKILL, "hsm-a")),
        Act(5.0, "hsm-b: hangs (its helper is stopped, SIGSTOP)", send(signal.SIGSTOP, "hsm-b")),
        Act(10.0, "hsm-a and hsm-c: unplugged (CKR_DEVICE_REMOVED)", plan(unplug, "hsm-a", "hsm-c")),
        Act(13.5, "hsm-b: unplugged too, no active member is left", plan(unplug, "hsm-b")),
        Act(17.0, "hsm-b: plugged in again", plan(plug_in, "hsm-b")),
        Act(19.5, "hsm-a and hsm-c: plugged in again", plan(plug_in, "hsm-a", "hsm-c")),
    ]


# -- what is seen ---------------------------------------------------------------------------------------------------


class Watch:
    """Reads status and log, and shows them."""

    def __init__(self, stage: Stage, screen: Screen, application: Application) -> None:
        self._screen = screen
        self._application = application
        self._reader = Reader([f"{stage.environment['XDG_RUNTIME_DIR']}/pyha"])
        self._log = stage.directory / "pyha.log"
        self._lines = 0
        self._before: Seen | None = None
        self._rates = [0.0] * len(MEMBERS)
        self._verified: list[tuple[float, int]] = []
        self.said: list[str] = []
        self.codes: dict[str, str] = {}

    def look(self, second: float) -> None:
        """Show how things are."""
        self._read_log(second)
        seen = next((seen for seen in self._reader.look() if seen.view.pid == self._application.pid), None)
        if seen is None:
            return
        self._measure(seen)
        members = list(zip(seen.view.members, seen.codes, self._rates, strict=True))
        self.codes = {member.name: rv_name(rv) for member, rv, _ in members}
        rows = [
            Row(member.name, member.role.value, rv_name(rv), member.state.value, rate, member.served, member.losses)
            for member, rv, rate in members
        ]
        self._screen.members(second, rows, self._summary(second))

    def _measure(self, seen: Seen) -> None:
        before = self._before
        if before is None or seen.written - before.written >= 0.5:
            if before is not None:
                seconds = seen.written - before.written
                pairs = zip(seen.view.members, before.view.members, strict=True)
                self._rates = [(now.served - then.served) / seconds for now, then in pairs]
            self._before = seen

    def _summary(self, second: float) -> str:
        application = self._application
        self._verified = [(at, number) for at, number in self._verified if at > second - 1.5]
        self._verified.append((second, application.verified))
        (then, first), (now, last) = self._verified[0], self._verified[-1]
        rate = (last - first) / (now - then) if now > then else 0.0
        return (
            f"{application.verified} signatures verified, {rate:.0f} a second; {application.failures} calls failed; "
            f"longest {application.longest:.2f} s"
        )

    def _read_log(self, second: float) -> None:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        for line in lines[self._lines :]:
            text = line.partition(f'group "{GROUP}": ')[2]
            # Attempts on a member that is unplugged come each second.
            if text and "recovery attempt" not in text:
                self._screen.event(second, f"  {text}")
                self.said.append(text)
        self._lines = len(lines)


def play(stage: Stage, screen: Screen, application: Application) -> Watch:
    """From the first signature to the last member's return. Raises Unexpected."""
    watch = Watch(stage, screen, application)
    limit = time.monotonic() + LIMIT
    while not application.verified:
        if not application.runs() or time.monotonic() > limit:
            raise Unexpected("the application did not begin to sign")
        time.sleep(_PERIOD)
    start = time.monotonic()
    coming = acts(stage, application)
    while True:
        second = time.monotonic() - start
        while coming and coming[0].at <= second:
            act = coming.pop(0)
            screen.event(second, act.text, strong=True)
            act.do()
        watch.look(time.monotonic() - start)
        if not application.runs():
            raise Unexpected(application.wrong or "the application ended by itself")
        back = set(watch.codes.values()) == {"CKR_OK"}
        if second >= LENGTH and (back or second >= LENGTH + _GRACE):
            return watch
        time.sleep(_PERIOD)


def judge(watch: Watch, application: Application) -> None:
    """Say what came of it. Raises Unexpected."""
    said = "\n".join(watch.said)
    lost = {member: said.count(f"member {member} lost") for member in MEMBERS}
    returned = sum(line.endswith(" returned") or "serves unsynchronised" in line for line in watch.said)
    print(
        f"\n{application.verified} signatures in {THREADS} threads, every one verified; "
        f"{application.failures} calls failed.\n"
        f"Members lost {sum(lost.values())} times, and back {returned} times. "
        f"The longest that a signature took: {application.longest:.2f} s (deadline {DEADLINE:g} s)."
    )
    if application.failures:
        raise Unexpected(f"{application.failures} calls failed")
    out = [member for member, code in watch.codes.items() if code != "CKR_OK"]
    if out:
        raise Unexpected(f"not back: {', '.join(out)}")
    if STANDBY_SERVES not in said:
        raise Unexpected(f"{STANDBY} was not promoted")
    for member, times in (("hsm-a", 2), ("hsm-b", 2), ("hsm-c", 1)):
        if lost[member] < times:
            raise Unexpected(f"the module noticed the loss of {member} only {lost[member]} times")


def main() -> int:
    """Exit status."""
    # An end from outside cleans up as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    application: Application | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="pyha-demo-") as name:
            directory = Path(name)
            stage = prepare(directory, quiet=True)
            stage.environment["XDG_RUNTIME_DIR"] = str(directory)
            stage.say(
                f"Three active members and a standby one ({STANDBY}) as one virtual token. An application signs with "
                f"it in {THREADS} threads, and knows nothing of members. They are killed, hung and unplugged; the "
                "deadline is 2 s, recovery tries every second."
            )
            make_group(stage)
            keys = PublicKeys.load(directory / "rsa.pub", directory / "ec.pub")
            application = Application(stage, keys)
            try:
                print()
                watch = play(stage, Screen(), application)
                application.end()
            finally:
                application.kill()
            judge(watch, application)
    except Unexpected as unexpected:
        print(f"\nFAILED: {unexpected}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
