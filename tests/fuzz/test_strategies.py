"""Laws of the strategies: well-formed, covering, reproducible, and shrinking to the simplest topology."""

from __future__ import annotations

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from acpitk.errors import UsageError
from acpitk.fuzz import strategies
from acpitk.fuzz.mutators import sealed
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB, PAGE_SIZE
from acpitk.tables.slit import Slit, decode_slit, encode_slit
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, Srat, build_srat, decode_srat, encode_srat


@given(st.lists(strategies.entries(), max_size=6))
def test_entries_survive_the_codec(entries: list[MemoryAffinity]) -> None:
    srat = build_srat(tuple(entries))
    assert decode_srat(encode_srat(srat)).entries == tuple(entries)


@given(strategies.memory_affinities(max_end=GIB))
def test_memory_stays_below_the_end_asked_for(entry: MemoryAffinity) -> None:
    assert entry.length > 0
    assert entry.base + entry.length <= GIB
    assert entry.base % PAGE_SIZE == entry.length % PAGE_SIZE == 0


@given(strategies.slits(min_localities=2, max_localities=5))
def test_slits_are_well_formed(slit: Slit) -> None:
    assert 2 <= slit.localities <= 5
    assert decode_slit(encode_slit(slit)) == slit
    for i in range(slit.localities):
        for j in range(slit.localities):
            assert (slit.distance(i, j) == 10) == (i == j)


@given(strategies.machines(min_memory=512 * MIB, max_memory=2 * GIB, initrd=False))
def test_machines_keep_their_bounds(machine: Q35) -> None:
    assert 512 * MIB <= machine.memory <= 2 * GIB
    assert machine.initrd == 0


@given(strategies.cases())
def test_cases_are_bootable_and_cover_their_guest(case: Case) -> None:
    assert sealed(case) == case
    assert isinstance(case.machine, Q35)
    enabled = [
        (m.base, m.base + m.length)
        for m in decode_srat(case.table(b"SRAT") or b"").memory_affinities()
        if MemoryFlags.ENABLED in m.flags
    ]
    for entry in case.resolved().e820:
        if entry.type == "usable":
            at = entry.start
            for start, end in sorted(enabled):
                if start <= at < end:
                    at = end
            assert at >= entry.end


def test_the_simplest_case_is_one_plain_node() -> None:
    case = find(strategies.cases(), lambda case: True)
    (entry,) = decode_srat(case.tables[0]).memory_affinities()
    assert (entry.base, entry.length, entry.flags) == (0, 512 * MIB, MemoryFlags.ENABLED)
    assert case.machine == Q35(512 * MIB)


def hot_nodes(srat: Srat) -> set[int]:
    return {m.proximity_domain for m in srat.memory_affinities() if MemoryFlags.HOT_PLUGGABLE in m.flags}


def test_two_hot_nodes_are_found_and_shrink_to_few_entries() -> None:
    srat = find(
        strategies.srats(),
        lambda srat: len(hot_nodes(srat)) == 2,
        settings=settings(max_examples=200, database=None),
    )
    assert len(srat.memory_affinities()) <= 4


@pytest.mark.parametrize(
    "holds",
    [
        lambda case: case.machine.memory > 3 * GIB,
        lambda case: "kernelcore=mirror" in case.cmdline,
        lambda case: "movablecore=" in case.cmdline and "movable_node" in case.cmdline,
        lambda case: case.cmdline == "",
        lambda case: case.machine.initrd > 0,
        lambda case: len(case.tables) == 1,
        lambda case: case.tables[0][8] == 1,
        lambda case: len(hot_nodes(decode_srat(case.tables[0]))) >= 3,
        lambda case: any(e.type == 2 for e in decode_srat(case.tables[0]).entries),
        lambda case: any(e.type == 5 for e in decode_srat(case.tables[0]).entries),
        lambda case: any(e.type > 7 for e in decode_srat(case.tables[0]).entries),
        lambda case: max(m.base for m in decode_srat(case.tables[0]).memory_affinities()) > 64 * GIB,
    ],
)
def test_what_matters_occurs(holds: object) -> None:
    assert callable(holds)
    drawn = [case for seed in range(3) for case in strategies.draw_cases(seed, 150)]
    assert any(holds(case) for case in drawn)


def test_drawing_is_reproducible_and_varied() -> None:
    first = strategies.draw_cases(7, 40)
    strategies.draw_cases.cache_clear()
    assert strategies.draw_cases(7, 40) == first
    assert len(set(first)) > 30
    assert strategies.draw_cases(8, 40) != first


def test_unusable_bounds_are_refused() -> None:
    with pytest.raises(UsageError, match="max_end=1"):
        strategies.memory_affinities(max_end=1)
    with pytest.raises(UsageError, match="in order"):
        strategies.machines(min_memory=2 * GIB, max_memory=GIB)
