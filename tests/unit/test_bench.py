"""The benchmark's pure parts: numbers from slices, tables, the page. What it measures is never a test."""

import pytest

from conformance.bench.findings import Filling, Idle, Pause, Scaling, Spent, Trace
from conformance.bench.page import marks, with_part
from conformance.bench.result import DIRECT, OPERATIONS, Crowd, Memory, Result, Startup
from conformance.bench.sections import render, sections
from conformance.bench.slices import Slice, Spread, added, ratio
from conformance.bench.table import number, table


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
    made = Result([DIRECT, "slot"], "2 cores", [1, 4], 2, 250, 1000)
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


def test_rates_of_slow_members_are_compared_with_one_member_round_by_round() -> None:
    found = Scaling(2, 64)
    found.slices["random-16", 1] = [one(100), one(50), one(100)]
    found.slices["random-16", 4] = [one(390), one(195), one(390)]
    found.slices["sign-p256", 4] = [one(200)]
    assert found.times("random-16", 4) == pytest.approx(3.9)
    assert found.times("sign-p256", 4) is None
    text = render(Result([], "2 cores", [], 3, 250, 0, scaling=found))
    assert row(text, "Members that take", "4") == ["390 ±12%", "3.90", "0.97", "200 ±0%", "n/a", "n/a"]


TRACE = """
1000000000 3000000
1500000000 4000000
1998000000 40000000
2100000000 900000000
3600000000 7000000
"""


def test_a_trace_tells_the_longest_operation_before_at_and_after_a_loss() -> None:
    trace = Trace.parse(TRACE.strip(), failed=2.0, repaired=3.5, failures=0, back=True)
    assert trace.longest_before() == pytest.approx(4)
    assert trace.longest_at_loss() == pytest.approx(900)
    assert trace.longest_at_return() == pytest.approx(7)


def test_filling_a_member_is_compared_round_by_round() -> None:
    made = result()
    plain, ours = [Spent(1.0, 1.0), Spent(4.0, 2.0)], [Spent(3.0, 2.0), Spent(8.0, 4.0)]
    made.resync = [Filling(2000, [Spent(0.5, 0.5), Spent(2.0, 1.0)], plain, ours, ours)]
    text = sections(made)["resync"]
    created, same = "2,000 objects: a plain program creates", "2,000 objects: a plain program makes the same calls"
    assert row(text, "A member that lacks everything", created) == ["1.25", "0.50", "0.75", "0.50"]
    assert row(text, "A member that lacks everything", same) == ["2.50", "1.00", "1.50", "1.00"]
    assert row(text, "A member that lacks everything", "2,000 objects: recovery") == ["5.50", "2.50", "3.00", "2.00"]


def test_pauses_and_idle_processes_have_tables_of_their_own() -> None:
    trace = Trace.parse(TRACE.strip(), failed=2.0, repaired=3.5, failures=1, back=False)
    made = Result([], "2 cores", [], 3, 250, 0)
    made.pauses = [Pause("it hangs", 1050.0, [trace])]
    made.idle = [Idle("slot 3, logged in", 20.0, 3.0, 0.5, 1.25, 0.25)]
    text = sections(made)
    assert list(text) == ["pauses", "idle"]
    expected = ["1,050", "900", "900", "4.00", "7.00", "1", "0 of 1"]
    assert row(text["pauses"], "The longest C_Sign", "it hangs") == expected
    assert row(text["idle"], "A process", "slot 3") == ["3.00", "0.50", "1.25", "0.25"]
    assert made.document()["pauses"][0]["rounds"][0]["failures"] == 1


def test_a_part_that_failed_is_said_where_nothing_else_ran() -> None:
    made = Result([], "2 cores", [], 3, 250, 0, failures=["pauses: 2 of 3 members came"])
    assert sections(made) == {}
    assert "- pauses: 2 of 3 members came" in render(made)


def test_a_page_keeps_what_is_around_its_tables() -> None:
    (begin, end), (other, _) = marks("idle"), marks("speed")
    page = f"{other}\n{begin}\nold\n{end}\nafter\n"
    assert with_part(page, "idle", "new\n") == f"{other}\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="has no"):
        with_part(page, "speed", "new")
