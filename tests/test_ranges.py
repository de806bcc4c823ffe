"""Ranges, sizes and page arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.ranges import (
    ADDRESS_LIMIT,
    PAGE_SIZE,
    PhysRange,
    align_down,
    align_up,
    format_size,
    parse_range,
    parse_size,
    pfn_down,
    pfn_up,
    readable_size,
)

ADDRESSES = st.integers(0, ADDRESS_LIMIT)


def ranges() -> st.SearchStrategy[PhysRange]:
    return st.tuples(ADDRESSES, ADDRESSES).map(lambda ends: PhysRange(min(ends), max(ends)))


@given(ADDRESSES)
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "exact", "short"),
    [
        (0, "0", "0"),
        (1000, "1000", "1000"),
        (512 << 20, "512M", "512M"),
        (536739840, "524160K", "511.9M"),
        (2096000 << 10, "2096000K", "2.0G"),
        (2**64 - 1, "18446744073709551615", "16777216.0T"),
    ],
)
def test_sizes_in_words(size: int, exact: str, short: str) -> None:
    assert (format_size(size), readable_size(size)) == (exact, short)


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 1 << 30), ("0x10", 16), ("4k", 4096), (" 7 ", 7), ("2TB", 2 << 40)]
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1X", "-1", "1.5G", "0xZ"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "message"), [("1G", "not a range"), ("2G-1G", "not a physical range"), ("a-b", "size")]
)
def test_what_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_range(text)


@given(ranges(), ranges())
def test_ranges_overlap_exactly_when_they_intersect(a: PhysRange, b: PhysRange) -> None:
    shared = a.intersect(b)
    assert (shared is not None) == (a.overlaps(b) and a.size > 0 and b.size > 0)
    assert shared is None or (
        shared.size <= min(a.size, b.size) and shared.overlaps(a) and shared.overlaps(b)
    )


@given(st.integers(0, ADDRESS_LIMIT), st.sampled_from([PAGE_SIZE, 1 << 21, 1 << 27]))
def test_alignment_brackets(value: int, alignment: int) -> None:
    low, high = align_down(value, alignment), align_up(value, alignment)
    assert low <= value <= high
    assert high - low in (0, alignment)
    assert low % alignment == high % alignment == 0


@given(st.integers(0, ADDRESS_LIMIT))
def test_page_frames(address: int) -> None:
    assert pfn_down(address) <= pfn_up(address) <= pfn_down(address) + 1
    assert (pfn_down(address) == pfn_up(address)) == (address % PAGE_SIZE == 0)


def test_the_kernels_print_form_is_inclusive() -> None:
    assert str(PhysRange(0x100000, 0x3FFE0000)) == "[mem 0x00100000-0x3ffdffff]"
