"""The benchmark's pure parts: numbers from slices, tables, the page. What it measures is never a test."""

import pytest

from conformance.bench.page import BEGIN, END, with_tables
from conformance.bench.result import DIRECT, OPERATIONS, Crowd, Memory, Result, Startup
from conformance.bench.slices import Slice, Spread, added, ratio
from conformance.bench.table import number, render, table


def one(rate: float, typical: float = 1.0) -> Slice:
    return Slice(int(rate * 10), 10.0, typical)


def test_the_drivers_numbers_are_operations_and_nanoseconds() -> None:
    taken = Slice.parse(["500", "250000000", "1500"])
    assert (taken.rate, taken.typical) == (2000.0, 1.5)
    with pytest.raises(ValueError, match="invalid literal"):
        Slice.parse(["500", "x", "1500"])


def test_a_spread_is_the_median_between_its_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]).relative == pytest.approx(2 / 3)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_disturbance_that_meets_a_whole_round_does_not_change_the_ratio() -> None:
    direct = [one(100), one(20), one(100)]
    assert ratio([one(50), one(10), one(50)], direct) == pytest.approx(0.5)
    assert added([one(1, 30), one(1, 90), one(1, 30)], [one(1, 10), one(1, 70), one(1, 10)], 2) == 10.0


def test_rounds_that_only_one_side_has_do_not_count() -> None:
    assert ratio([None, one(50)], [one(1), one(100)]) == pytest.approx(0.5)
    assert ratio([None, one(50)], [one(1), None]) is None
    assert added([None], [one(1)], 1) is None


def test_a_table_lines_up() -> None:
    made = table(["name", "rate"], [["a", "1,000"], ["longer", "2"]])
    assert made.splitlines() == [
        "| name   |  rate |",
        "| ------ | ----: |",
        "| a      | 1,000 |",
        "| longer |     2 |",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (-45.67, "-45.7")]
)
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def result() -> Result:
    made = Result([DIRECT, "slot"], "2 cores;", [1, 4], 2, 250, 1000)
    made.slices["random-16", 1, DIRECT] = [one(1000, 1.0), one(1000, 1.0)]
    made.slices["random-16", 1, "slot"] = [one(500, 9.0), one(500, 9.0)]
    made.slices["random-16", 4, DIRECT] = [one(1000, 1.0), one(1000, 1.0)]
    made.slices["random-16", 4, "slot"] = [None, None]
    made.startup["slot"] = Startup()
    made.startup["slot"].add(["1000", "20000", "3000", "500"])
    made.memory["slot"] = Memory(10 * 1024, 512)
    made.crowd["slot"] = [Crowd(100, 8.0, 4.0, 11.0, 110.0)]
    made.failures = ["slot: C_GenerateRandom answered 0x5"]
    return made


def row(text: str, heading: str, first: str) -> list[str]:
    section = text.partition(f"### {heading}")[2].partition("###")[0]
    (line,) = (line for line in section.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_every_part_of_a_result_is_in_the_text() -> None:
    text = render(result())
    assert row(text, "Operations a second, 1 thread", "C_GenerateRandom") == ["1,000 ±0%", "500 ±0% (0.50)"]
    assert row(text, "Operations a second, 4 threads", "C_GenerateRandom") == ["1,000 ±0%", "n/a"]
    assert row(text, "Operations a second, 1 thread", "C_Sign, RSA") == ["n/a", "n/a"]
    assert row(text, "Microseconds an operation", "C_GenerateRandom") == ["1.00", "9.00 (+8.0)"]
    assert row(text, "Start-up", "slot") == ["1.00", "20.0", "3.00", "0.50", "24.5"]
    assert row(text, "Memory", "slot") == ["10.0", "0.50"]
    assert row(text, "Microseconds beside", "slot") == ["100", "8.00", "4.00", "11.0", "110"]
    assert "- slot: C_GenerateRandom answered 0x5" in text
    assert "find 1 of 1,000 objects" in text


def test_the_document_has_the_slices_and_their_medians() -> None:
    document = result().document()
    assert len(document["operations"]) == len(OPERATIONS) * 2
    (found,) = (each for each in document["operations"] if each["operation"] == "random-16" and each["threads"] == 1)
    assert found["targets"]["slot"]["rates"] == [500.0, 500.0]
    assert found["targets"]["slot"]["added_microseconds_a_call"] == 8.0
    assert document["sessions"]["slot"][0]["random"] == 11.0


def test_a_page_keeps_what_is_around_its_tables() -> None:
    assert with_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="has no"):
        with_tables("no marks", "new")
