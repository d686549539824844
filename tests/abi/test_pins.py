"""The page of PINs: kept, copied out, wiped, full. (What a forked child finds: test_link_host.py.)"""

from pathlib import Path

import pytest

from pyha.abi.native import ffi
from pyha.abi.pins import Pin, PinLost, keep


def kept(pin: bytes) -> Pin:
    return keep(ffi.new("uint8_t[]", pin), len(pin))


def content(pin: Pin) -> bytes:
    memory = ffi.new("uint8_t[]", pin.size + 1)
    memory[pin.size] = 0x5A
    pin.copy_to(memory)
    assert memory[pin.size] == 0x5A, "copied too much"
    return bytes(ffi.buffer(memory, pin.size))


@pytest.mark.parametrize("pin", [b"", b"1", b"12345678", b"p\0n", b"x" * 255, b"y" * 1000])
def test_a_pin_is_kept_as_it_is(pin: bytes) -> None:
    assert content(kept(pin)) == pin


def test_wiping_one_leaves_the_others() -> None:
    pins = [kept(b"pin %d " % number * (number + 1)) for number in range(9)]
    for number in (0, 8, 4):
        pins[number].wipe()
        pins[number].wipe()
        with pytest.raises(PinLost):
            content(pins[number])
    for number in (1, 2, 3, 5, 6, 7):
        assert content(pins[number]) == b"pin %d " % number * (number + 1)


def test_the_page_is_full_at_some_time_and_has_room_again() -> None:
    pins: list[Pin] = []
    with pytest.raises(MemoryError):
        pins.extend(kept(bytes([number]) * 200) for number in range(100))
    assert [content(pin) for pin in pins] == [bytes([number]) * 200 for number in range(len(pins))]
    assert len(pins) > 10
    del pins[3]  # dropped is wiped
    assert content(kept(b"again" * 40)) == b"again" * 40


@pytest.mark.parametrize("size", [4065, 4080, 4081, 1 << 20])
def test_too_long_for_the_page(size: int) -> None:
    with pytest.raises(MemoryError):
        kept(bytes(size))
    assert content(kept(b"x" * 4064)) == b"x" * 4064


def test_a_pin_shows_nothing() -> None:
    assert "secret" not in repr(kept(b"secret"))


def test_a_wiped_pin_is_nowhere_in_the_page() -> None:
    """The page is found by its flags (locked is up to the limit; wiped in a child, not in a dump) in our own memory."""
    pin = kept(b"needle" * 5)
    other = kept(b"other")
    assert [page.count(b"needle" * 5) for page in pages()] == [1]
    pin.wipe()
    assert [page.count(b"needle") for page in pages()] == [0]
    assert content(other) == b"other"


def pages() -> list[bytes]:
    """Mappings of this process that are wiped in a child (wf) and in no dump (dd)."""
    found, span = [], (0, 0)
    with Path("/proc/self/mem").open("rb", 0) as memory:
        for line in Path("/proc/self/smaps").read_text().splitlines():
            bounds = line.split()[0].split("-")
            if len(bounds) == 2:
                span = (int(bounds[0], 16), int(bounds[1], 16))
            elif line.startswith("VmFlags") and {"wf", "dd"} <= set(line.split()) and span[1] - span[0] == 4096:
                memory.seek(span[0])
                found.append(memory.read(span[1] - span[0]))
    return found
