"""The address map: its axis is a scale, its drawing fits the page."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acpitk.fuzz.strategies import cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import V6_1
from acpitk.machine import Q35, Case
from acpitk.outcome import Block
from acpitk.ranges import ADDRESS_LIMIT, GIB, MIB
from acpitk.report.addressmap import (
    ASCII,
    UNICODE,
    Bar,
    Lane,
    Mark,
    address,
    axis,
    block_runs,
    draw,
    firmware_lanes,
    outcome_lanes,
    owner_letters,
    place,
)

_ADDRESSES = st.integers(0, ADDRESS_LIMIT) | st.sampled_from((0, MIB, GIB, 4 * GIB, 1 << 52, ADDRESS_LIMIT))
_SPANS = st.lists(_ADDRESSES, min_size=2, max_size=2, unique=True).map(lambda pair: (min(pair), max(pair)))


def _lanes(case: Case) -> list[Lane]:
    prediction = predict(case, V6_1)
    return [*firmware_lanes(case, prediction), *outcome_lanes(prediction.outcome, prediction)]


@st.composite
def _any_lanes(draw_: st.DrawFn) -> list[Lane]:
    names = ("e820", "SRAT", "reserved")
    lanes = []
    for name, marks in zip(
        names, ((Mark.RAM, Mark.FIRMWARE), (Mark.HOT, Mark.PLAIN), (Mark.OWNER,)), strict=True
    ):
        spans = draw_(st.lists(_SPANS, max_size=20))
        bars = [
            Bar(start=start, end=end, label=f"{name} {i}", short=str(i), mark=draw_(st.sampled_from(marks)))
            for i, (start, end) in enumerate(sorted(spans))
        ]
        lanes.append(Lane(name=name, bars=tuple(bars)))
    return lanes


@settings(max_examples=40, deadline=None)
@given(_any_lanes(), st.lists(_ADDRESSES, min_size=2, max_size=30))
def test_the_axis_is_one_scale(lanes: list[Lane], addresses: list[int]) -> None:
    segments = axis(lanes)
    assert sum(segment.share for segment in segments) == pytest.approx(1)
    assert all(segment.start < segment.end and segment.share > 0 for segment in segments)
    assert all(one.end <= other.start for one, other in pairwise(segments))
    places = [place(segments, value) for value in sorted(addresses)]
    assert all(0 <= at <= 1 + 1e-9 for at in places)
    assert all(one <= other + 1e-9 for one, other in pairwise(places))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_ram_is_to_scale_and_all_of_it_is_shown(case: Case) -> None:
    lanes = _lanes(case)
    segments = axis(lanes)
    ram = [bar for bar in lanes[0].bars if bar.mark is Mark.RAM]
    rates = set()
    for segment in segments:
        if not segment.squeezed:
            rates.add(round(segment.share * (1 << 60) / (segment.end - segment.start)))
    assert len(rates) == 1
    for bar in ram:
        scaled = sum(
            max(0, min(bar.end, s.end) - max(bar.start, s.start)) for s in segments if not s.squeezed
        )
        assert scaled == bar.end - bar.start


@settings(max_examples=40, deadline=None)
@given(_any_lanes(), st.integers(40, 200), st.sampled_from((ASCII, UNICODE)))
def test_no_line_is_wider_than_the_page(lanes: list[Lane], width: int, glyphs: object) -> None:
    lines = draw(lanes, width=width, glyphs=ASCII if glyphs is ASCII else UNICODE)
    assert all(len(line.plain) <= width for line in lines)
    if glyphs is ASCII:
        assert all(line.plain.isascii() for line in lines)


def test_a_large_hole_is_squeezed_and_marked() -> None:
    case = Case(machine=Q35(4 * GIB))
    lanes = _lanes(case)
    hole = [segment for segment in axis(lanes) if segment.squeezed]
    assert hole
    assert hole[0].start >= 0x7FFE0000
    assert hole[-1].end <= 4 * GIB
    assert sum(segment.share for segment in hole) < 0.2
    drawn = [line.plain for line in draw(lanes, width=100)]
    assert any("not to scale" in line for line in drawn)
    assert any("4G" in line for line in drawn[:1])


def test_overlapping_ranges_take_rows_of_their_own() -> None:
    bars = tuple(
        Bar(start=i * MIB, end=GIB, label=f"domain {i}", short=str(i), mark=Mark.PLAIN) for i in range(3)
    )
    drawn = [line.plain for line in draw([Lane(name="SRAT", bars=bars)], width=100)]
    assert sum("domain" in line for line in drawn) == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=30))
def test_every_owner_has_a_letter_of_its_own(names: list[str]) -> None:
    bars = [Bar(start=0, end=1, label=name, short="", mark=Mark.OWNER) for name in names]
    letters = owner_letters(bars)
    assert set(letters) == set(names)
    assert len(set(letters.values())) == len(names)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_runs_of_blocks_are_the_blocks(case: Case) -> None:
    blocks = predict(case, V6_1).outcome.blocks or ()
    again = []
    for run, count in block_runs(blocks):
        size = (run.end - run.start) // count
        again += [
            Block(
                run.start + i * size, run.start + (i + 1) * size, run.nid, run.zone, run.removable, run.reason
            )
            for i in range(count)
        ]
    assert [(b.start, b.end, b.removable, b.reason) for b in again] == [
        (b.start, b.end, b.removable, b.reason) for b in blocks
    ]


def test_addresses_are_short_where_they_are_round() -> None:
    assert [address(a) for a in (0, 96 * MIB, 4 * GIB, 0x7FFE0000)] == ["0", "96M", "4G", "0x7ffe0000"]
