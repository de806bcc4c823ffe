"""Laws of the minimiser: the predicate keeps holding, the budget is kept, what is left is what matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acpitk.errors import DecodeError
from acpitk.fuzz import raw
from acpitk.fuzz.minimise import minimise
from acpitk.fuzz.mutators import mutate
from acpitk.fuzz.strategies import cases
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, decode_slit, encode_slit
from acpitk.tables.srat import (
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    build_srat,
    decode_srat,
    encode_srat,
)

Predicate = Callable[[Case], bool]
HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
BUSY = Case(
    machine=Q35(16 * GIB, 300_000),
    tables=(
        encode_srat(
            build_srat(
                (
                    *(ProcessorAffinity(proximity_domain=i % 4, apic_id=i) for i in range(8)),
                    MemoryAffinity(proximity_domain=0, base=0, length=2 * GIB),
                    MemoryAffinity(proximity_domain=9, base=4 * GIB, length=3 * GIB + 4096, flags=HOT | 8),
                    MemoryAffinity(proximity_domain=9, base=7 * GIB + 4096, length=4 * GIB, flags=HOT),
                    MemoryAffinity(proximity_domain=3, base=11 * GIB + 4096, length=7 * GIB),
                ),
                revision=2,
            )
        ),
        encode_slit(build_slit([[10, 20], [20, 10]])),
    ),
    cmdline="kernelcore=1G movable_node mem=3G",
)


def entries(case: Case) -> list[raw.Memory]:
    table = case.table(b"SRAT")
    return [] if table is None else [entry for _, entry in raw.cut(table).memories()]


def hot_bytes(case: Case) -> int:
    return sum(entry.length for entry in entries(case) if entry.hot)


PREDICATES: tuple[Predicate, ...] = (
    lambda case: hot_bytes(case) > 0,
    lambda case: hot_bytes(case) >= 5 * GIB,
    lambda case: len({entry.domain for entry in entries(case)}) >= 2,
    lambda case: "movable_node" in case.cmdline,
    lambda case: case.table(b"SLIT") is not None,
    lambda case: any(entry.flags & 8 for entry in entries(case)),
    lambda case: isinstance(case.machine, Q35) and case.machine.memory > 5 * GIB,
)


@given(cases(), st.integers(0, 1 << 32), st.sampled_from(PREDICATES), st.integers(0, 80))
@settings(max_examples=60)
def test_the_predicate_holds_the_budget_is_kept_and_no_case_is_asked_twice(
    case: Case, seed: int, predicate: Predicate, budget: int
) -> None:
    case, _ = mutate(case, Random(seed), rounds=4)
    if not predicate(case):
        return
    asked: list[Case] = []

    def counting(candidate: Case) -> bool:
        asked.append(candidate)
        return predicate(candidate)

    small = minimise(case, counting, budget=budget)
    assert predicate(small)
    assert len(asked) <= budget
    assert len(set(asked)) == len(asked)
    assert minimise(case, predicate, budget=budget) == small


def test_nothing_left_to_hold_leaves_nothing() -> None:
    small = minimise(BUSY, lambda case: True, budget=1000)
    assert small == Case(machine=Q35(256 * MIB))


def test_one_hot_entry_is_all_that_is_left() -> None:
    small = minimise(BUSY, PREDICATES[0], budget=1000)
    (entry,) = entries(small)
    assert entry.hot
    assert (entry.base + entry.length) % GIB == 0
    assert (entry.domain, entry.flags) == (0, int(HOT))
    assert len(small.tables) == 1
    assert small.cmdline == ""
    assert isinstance(small.machine, Q35)
    assert small.machine.initrd == 0
    assert decode_srat(small.tables[0]).header.revision == 3


def test_what_touches_still_touches_after_rounding() -> None:
    def adjoining(case: Case) -> bool:
        found = entries(case)
        return any(a.end == b.base and a.domain != b.domain for a in found for b in found)

    small = minimise(BUSY, adjoining, budget=1000)
    low, high = entries(small)
    assert low.end == high.base
    assert low.end % GIB == 0


@pytest.mark.parametrize("words", ["mem=3G", "kernelcore=1G", "movable_node"])
def test_the_command_line_keeps_the_word_that_matters(words: str) -> None:
    small = minimise(BUSY, lambda case: words in case.cmdline.split(), budget=1000)
    assert small.cmdline == words


def test_no_budget_changes_nothing() -> None:
    assert minimise(BUSY, lambda case: True, budget=0) == BUSY


def test_a_guide_spares_the_costly_judge_most_questions() -> None:
    asked = {True: 0, False: 0}

    def judge(guided: bool) -> Predicate:
        def shows(case: Case) -> bool:
            asked[guided] += 1
            return hot_bytes(case) >= 5 * GIB

        return shows

    plain = minimise(BUSY, judge(False), budget=2000)
    guided = minimise(BUSY, judge(True), budget=2000, guide=lambda case: hot_bytes(case) >= 5 * GIB)
    assert guided == plain
    assert asked[True] < asked[False]


def test_a_guide_that_misleads_costs_one_question_and_no_case() -> None:
    wrong = minimise(BUSY, lambda case: hot_bytes(case) > 0, budget=500, guide=lambda case: "anything")
    assert hot_bytes(wrong) > 0
    assert wrong == minimise(BUSY, lambda case: hot_bytes(case) > 0, budget=500)
    assert wrong == minimise(BUSY, lambda case: hot_bytes(case) > 0, budget=500, guide=lambda case: None)


def test_a_slit_is_left_with_what_matters() -> None:
    rows = [[10 if i == j else 15 + i + 2 * j for j in range(6)] for i in range(6)]
    table = encode_slit(build_slit(rows))
    huge = seal(table[:36] + (0x0000_0002_0000_0005).to_bytes(8, "little") + table[44:] + b"tail")
    case = replace(BUSY, tables=(BUSY.tables[0], huge))

    def overflows(case: Case) -> bool:
        slit = case.table(b"SLIT") or bytes(44)
        return int.from_bytes(slit[36:44], "little") >= 1 << 32

    small = minimise(case, overflows, budget=2000)
    (slit,) = small.tables
    assert int.from_bytes(slit[36:44], "little") == 1 << 33
    assert len(slit) <= 45

    def asymmetric(case: Case) -> bool:
        try:
            slit = decode_slit(case.table(b"SLIT") or b"")
        except DecodeError:
            return False
        whole = len(case.tables[-1]) == 44 + slit.localities**2
        return whole and slit.localities > 1 and slit.distance(0, 1) != slit.distance(1, 0)

    small = minimise(replace(case, tables=(BUSY.tables[0], table)), asymmetric, budget=2000)
    slit_ = decode_slit(small.tables[0])
    assert slit_.localities <= 6
    size = range(slit_.localities)
    assert sum(slit_.distance(i, j) not in (10, 20) for i in size for j in size) == 1


def test_what_a_header_says_of_its_maker_goes() -> None:
    srat = BUSY.tables[0]
    odd = seal(srat[:10] + b"XXXXXXYYYYYYYY" + srat[24:])
    small = minimise(replace(BUSY, tables=(odd,)), lambda case: case.table(b"SRAT") is not None, budget=500)
    assert small.tables[0] == encode_srat(build_srat(()))


def test_many_entries_that_have_to_cover_something_are_joined_many_at_a_time() -> None:
    """By so few questions, because each of them may be a boot."""
    step = 32 * MIB
    pieces = [
        MemoryAffinity(proximity_domain=i % 3, base=i * step, length=step, flags=HOT if i % 2 else HOT & 1)
        for i in range(32)
    ]
    case = Case(machine=Q35(GIB), tables=(encode_srat(build_srat(pieces)),))

    def covered(case: Case) -> bool:
        at = 0
        for entry in sorted(entries(case), key=lambda entry: entry.base):
            at = max(at, entry.end) if entry.base <= at else at
        return at >= GIB

    assert len(entries(minimise(case, covered, budget=100))) == 1
