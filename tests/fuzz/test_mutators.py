"""Laws of the mutators: pure, seeded, total, each able to change something, and sealed cases bootable."""

from __future__ import annotations

import inspect
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acpitk.fuzz import mutators, raw
from acpitk.fuzz.mutators import MUTATORS, mutate, sealed
from acpitk.fuzz.strategies import cases
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, KIB, MIB
from acpitk.tables.header import checksum_valid
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import (
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    build_srat,
    decode_srat,
    encode_srat,
)

HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
SRAT = build_srat(
    (
        ProcessorAffinity(proximity_domain=0, apic_id=0),
        ProcessorAffinity(proximity_domain=1, apic_id=1),
        MemoryAffinity(proximity_domain=0, base=0, length=640 * KIB),
        MemoryAffinity(proximity_domain=0, base=MIB, length=GIB - MIB),
        MemoryAffinity(proximity_domain=1, base=GIB, length=GIB, flags=HOT),
        MemoryAffinity(proximity_domain=1, base=4 * GIB, length=GIB, flags=HOT),
    )
)
SLIT = build_slit([[10, 20], [20, 10]])
CASE = Case(
    machine=Q35(3 * GIB, MIB), tables=(encode_srat(SRAT), encode_slit(SLIT)), cmdline="movable_node x"
)
ODD_CASES = (
    Case(machine=Q35(GIB)),
    Case(machine=Q35(GIB), tables=(b"",)),
    Case(machine=Q35(GIB), tables=(b"SRAT",)),
    Case(machine=Q35(GIB), tables=(b"SRAT" + bytes(43),)),
    Case(machine=Q35(GIB), tables=(b"SRAT" + bytes(46), b"SLIT")),
    Case(machine=Q35(GIB), tables=(b"SRAT" + bytes(44) + b"\x01\x02\x05\x02", b"SLIT" + bytes(39))),
    Case(machine=Q35(GIB), tables=(b"SLIT" + b"\xff" * 50,)),
    Case(machine=Q35(GIB).resolve(()), tables=CASE.tables),
)


@pytest.mark.parametrize("name", MUTATORS)
def test_every_mutator_changes_something_and_the_same_for_the_same_seed(name: str) -> None:
    apply = MUTATORS[name].apply
    results = [apply(CASE, Random(seed)) for seed in range(40)]
    assert results == [apply(CASE, Random(seed)) for seed in range(40)]
    assert any(result != CASE for result in results)


@pytest.mark.parametrize("name", MUTATORS)
def test_every_mutator_takes_any_case(name: str) -> None:
    for case in ODD_CASES:
        for seed in range(20):
            assert isinstance(MUTATORS[name].apply(case, Random(seed)), Case)


@given(cases(), st.integers(0, 1 << 32), st.integers(0, 12))
def test_any_mutations_in_a_row_give_a_case_that_survives_its_json(
    case: Case, seed: int, rounds: int
) -> None:
    mutated, names = mutate(case, Random(seed), rounds=rounds)
    assert (mutated, names) == mutate(case, Random(seed), rounds=rounds)
    assert len(names) <= rounds
    assert set(names) <= set(MUTATORS)
    assert names or mutated == case
    srat = mutated.table(b"SRAT")
    if srat is not None and len(srat) >= raw.FIXED_SIZE:
        assert encode_srat(decode_srat(srat)) == srat
    mutated.resolved()


@given(cases(), st.integers(0, 1 << 32))
def test_sealed_cases_can_be_delivered(case: Case, seed: int) -> None:
    mutated, _ = mutate(case, Random(seed), rounds=8)
    ready = sealed(mutated)
    assert sealed(ready) == ready
    for table in ready.tables:
        assert raw.HEADER_SIZE <= len(table) <= mutators.DELIVERABLE_BYTES
        assert int.from_bytes(table[4:8], "little") == len(table)
        assert checksum_valid(table)


def test_a_table_too_large_to_deliver_is_cut() -> None:
    (table,) = sealed(Case(machine=Q35(GIB), tables=(bytes(70_000),))).tables
    assert len(table) == mutators.DELIVERABLE_BYTES


@given(st.integers(0, 1 << 32))
@settings(max_examples=50)
def test_only_the_named_mutators_are_drawn(seed: int) -> None:
    _, names = mutate(CASE, Random(seed), names=("toggle-hotplug", "delete-entry"), rounds=5)
    assert set(names) <= {"toggle-hotplug", "delete-entry"}


def test_names_and_descriptions_are_words() -> None:
    for name, mutator in MUTATORS.items():
        assert mutator.name == name
        assert name.replace("-", "").isalnum()
        assert name.islower()
        assert len(mutator.description.split()) > 2


def memories(case: Case) -> list[MemoryAffinity]:
    return list(decode_srat(case.table(b"SRAT") or b"").memory_affinities())


def test_hot_ranges_land_on_what_must_not_move() -> None:
    placed = {reserved.owner: reserved for reserved in CASE.resolved().placed}
    targets = {
        "hotplug-over-kernel": mutators.KERNEL_START + 48 * MIB,
        "hotplug-over-initrd": placed["initrd"].start,
        "hotplug-over-acpi-tables": placed["ACPI tables"].start,
    }
    plain, _ = mutate(CASE, Random(0), names=("nothing-hot",))
    for name, address in targets.items():
        hit = [
            any(
                HOT in entry.flags and entry.base <= address < entry.base + entry.length
                for entry in memories(MUTATORS[name].apply(plain, Random(seed)))
            )
            for seed in range(40)
        ]
        assert any(hit), name


def test_flags_the_mutators_write_are_those_of_the_specification() -> None:
    assert tuple(int(flag) for flag in MemoryFlags) == (
        raw.ENABLED,
        raw.HOT_PLUGGABLE,
        raw.NON_VOLATILE,
        raw.SPECIFIC_PURPOSE,
    )


def test_wrapping_reaches_past_the_top() -> None:
    wrapped = [MUTATORS["wrap-range"].apply(CASE, Random(seed)) for seed in range(40)]
    ends = {m.base + m.length for case in wrapped for m in memories(case)}
    assert 1 << 64 in ends
    assert any(end > 1 << 64 for end in ends)


def test_mutators_draw_from_their_generator_only() -> None:
    source = inspect.getsource(mutators)
    assert "import random" not in source
    assert "time" not in source.split("from __future__")[1].split("import")[0]
