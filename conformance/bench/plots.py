"""A result as pictures. Needs matplotlib, which nothing else here does."""

from pathlib import Path
from statistics import median

import matplotlib

from conformance.bench.findings import Pause, Scaling
from conformance.bench.result import DIRECT, OPERATIONS, Operation, Result

matplotlib.use("agg")  # before pyplot is imported: there may be no screen
from matplotlib import pyplot as plt


def draw(result: Result, directory: Path) -> list[Path]:
    """Writes the files and names them."""
    made = []
    if result.slices:
        made += [_relative(result, directory / f"rates-{threads}.png", threads) for threads in result.threads]
    if result.slices and 1 in result.threads:
        made.append(_added(result, directory / "added.png"))
    if result.startup:
        made.append(_startup(result, directory / "startup.png"))
    if result.memory:
        made.append(_memory(result, directory / "memory.png"))
    if result.crowd:
        made.append(_crowd(result, directory / "sessions.png"))
    if result.scaling is not None:
        made.append(_scaling(result.scaling, directory / "members.png"))
    if result.pauses:
        made.append(_pauses(result.pauses, directory / "pauses.png"))
    return made


def _save(path: Path) -> Path:
    plt.tight_layout()
    plt.savefig(path, dpi=110)
    plt.close()
    return path


def _measured(result: Result, threads: int) -> list[Operation]:
    return [one for one in OPERATIONS if any(result.rates(one.name, threads, name) for name in result.targets)]


def _bars(result: Result, operations: list[Operation], values: dict[str, list[float]]) -> None:
    width = 0.8 / max(len(values), 1)
    for at, (name, heights) in enumerate(values.items()):
        plt.bar([place + at * width for place in range(len(operations))], heights, width, label=name)
    names = [result.title(one) for one in operations]
    plt.xticks([place + 0.4 - width / 2 for place in range(len(operations))], names, rotation=25, ha="right")
    plt.legend()


def _relative(result: Result, path: Path, threads: int) -> Path:
    operations = _measured(result, threads)
    others = [name for name in result.targets if name != DIRECT]
    plt.figure(figsize=(13, 6))
    _bars(
        result,
        operations,
        {name: [result.ratio(one.name, threads, name) or 0 for one in operations] for name in others},
    )
    plt.axhline(1, color="black", linewidth=0.8)
    plt.ylabel("rate, SoftHSM direct = 1")
    plt.title(f"Rate beside SoftHSM direct, {threads} thread{'s' * (threads > 1)}")
    return _save(path)


def _added(result: Result, path: Path) -> Path:
    operations = [one for one in _measured(result, 1) if not one.full]
    others = [name for name in result.targets if name != DIRECT]
    plt.figure(figsize=(13, 6))
    _bars(result, operations, {name: [result.added(one, 1, name) or 0 for one in operations] for name in others})
    plt.yscale("symlog", linthresh=10)  # an operation that had to wait for a core would hide all others
    plt.ylabel("microseconds")
    plt.title("Added to each call, 1 thread")
    return _save(path)


def _startup(result: Result, path: Path) -> Path:
    names = [name for name, one in result.startup.items() if one.load]
    plt.figure(figsize=(9, 5))
    bottom = [0.0] * len(names)
    for part in ("load", "initialize", "session", "login"):
        heights = [median(getattr(result.startup[name], part)) for name in names]
        plt.bar(names, heights, bottom=bottom, label=part)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    plt.ylabel("milliseconds")
    plt.title("From loading the module to the end of C_Login")
    plt.xticks(rotation=20, ha="right")
    plt.legend()
    return _save(path)


def _memory(result: Result, path: Path) -> Path:
    names = list(result.memory)
    application = [result.memory[name].application / 1024 for name in names]
    plt.figure(figsize=(9, 5))
    plt.bar(names, application, label="application")
    plt.bar(names, [result.memory[name].helpers / 1024 for name in names], bottom=application, label="helpers")
    plt.ylabel("MiB, proportional set size")
    plt.title("Memory")
    plt.xticks(rotation=20, ha="right")
    plt.legend()
    return _save(path)


def _crowd(result: Result, path: Path) -> Path:
    plt.figure(figsize=(9, 5))
    for name, many in result.crowd.items():
        plt.plot([one.sessions for one in many], [one.random for one in many], marker="o", label=name)
    plt.xscale("log")
    plt.ylim(bottom=0)
    plt.xlabel("idle sessions")
    plt.ylabel("microseconds")
    plt.title("C_GenerateRandom(16) beside idle sessions")
    plt.legend()
    return _save(path)


def _scaling(found: Scaling, path: Path) -> Path:
    plt.figure(figsize=(9, 5))
    for operation in found.operations():
        points = [(size, found.times(operation, size)) for size in found.sizes()]
        measured = [(size, times) for size, times in points if times is not None]
        plt.plot(*zip(*measured, strict=True), marker="o", label=operation)
    plt.plot(found.sizes(), found.sizes(), color="black", linewidth=0.8, linestyle="--", label="as many as members")
    plt.xlabel("members")
    plt.ylabel("rate, one member = 1")
    plt.title(f"Members that take one call at a time, each of {found.milliseconds} ms; {found.threads} threads")
    plt.legend()
    return _save(path)


def _pauses(found: list[Pause], path: Path) -> Path:
    """Every operation of the first round: when it ended, and how long it took."""
    _, axes = plt.subplots(len(found), 1, figsize=(11, 3.2 * len(found)), sharex=True, sharey=True, squeeze=False)
    for axis, pause in zip(axes[:, 0], found, strict=True):
        trace = pause.traces[0]
        ends = [start + taken for start, taken in trace.moments]
        axis.plot(ends, [1000 * taken for _, taken in trace.moments], ".", markersize=2)
        axis.axvline(0, color="red", linewidth=0.8, label="the member fails")
        axis.axvline(trace.repaired, color="green", linewidth=0.8, label="it is repaired")
        axis.axhline(pause.aim, color="grey", linewidth=0.8, linestyle="--", label=f"aim: {pause.aim:g} ms")
        axis.set_yscale("log")
        axis.set_ylabel("milliseconds")
        axis.set_title(pause.title)
        axis.legend(loc="upper right")
    axes[-1, 0].set_xlabel("seconds, each point where a C_SignInit and C_Sign ended")
    return _save(path)
