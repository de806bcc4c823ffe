"""The MADT of a case: what the mutators write is what the model reads, and how it gets into a guest."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.fuzz.mutators import MUTATORS, sealed
from acpitk.fuzz.processors import Processor, encode_madt, processors_of, with_processors
from acpitk.kernel.boot import predict
from acpitk.kernel.madt import disables_acpi, processors
from acpitk.kernel.policy import POLICIES
from acpitk.machine import MADT, Q35, Case, case_from_json
from acpitk.outcome import NumaReason, NumaState
from acpitk.qemu.argv import undeliverable
from acpitk.qemu.boots import delivery_of, unbootable
from acpitk.qemu.runner import Delivery
from acpitk.ranges import GIB, MIB
from acpitk.tables.header import checksum_valid, seal
from acpitk.tables.srat import MemoryAffinity, ProcessorAffinity, build_srat, encode_srat

SRAT = encode_srat(
    build_srat(
        (
            *(ProcessorAffinity(proximity_domain=domain, apic_id=domain) for domain in range(3)),
            MemoryAffinity(proximity_domain=0, base=0, length=512 * MIB),
            MemoryAffinity(proximity_domain=1, base=512 * MIB, length=512 * MIB),
        )
    )
)
CASE = Case(machine=Q35(GIB), tables=(SRAT,), cmdline="movable_node")
LISTS = st.lists(
    st.one_of(
        st.builds(Processor, st.integers(0, 254), st.integers(0, 3)),
        st.builds(Processor, st.integers(0, (1 << 32) - 1), st.integers(0, 3), st.just(True)),
    ),
    max_size=20,
)


def areas(case: Case) -> list[tuple[int | None, int]]:
    """(node, bytes) of each per-CPU area."""
    made = predict(case, POLICIES["v6.1"]).allocations
    return [(a.wanted_nid, a.end - a.start) for a in made if a.purpose == "percpu area"]


@given(LISTS)
def test_what_is_written_is_read_back(listed: list[Processor]) -> None:
    table = encode_madt(listed)
    case = replace(CASE, tables=(table,))
    assert checksum_valid(table)
    assert processors_of(case) == listed
    assert with_processors(case, listed) == case == sealed(case)
    assert not disables_acpi(table)
    enabled = {each.apic_id for each in listed if each.flags & 1 and each.apic_id < 255} - {0}
    assert enabled <= set(processors(table, 255)) <= {each.apic_id for each in listed}


@given(LISTS)
def test_a_case_with_a_madt_survives_its_json_and_goes_by_guest_memory(listed: list[Processor]) -> None:
    case = with_processors(CASE, listed)
    assert case_from_json(json.loads(json.dumps(case.to_json())), source="case") == case
    assert "QEMU's own MADT" in undeliverable(case)[0]
    assert delivery_of(case) is Delivery.GUEST_MEMORY
    assert unbootable(case) == ()


def test_without_one_it_has_qemus() -> None:
    assert processors_of(CASE) == [Processor(0)]
    assert areas(CASE) == [(0, 2 * MIB)]


def test_each_node_with_processors_gets_per_cpu_areas() -> None:
    """Of node 2, which has no memory, they come from elsewhere."""
    apic_ids = (0, 1, 2)
    assert areas(with_processors(CASE, [Processor(each) for each in apic_ids])) == [
        (0, 2 * MIB),
        (1, 2 * MIB),
        (2, 2 * MIB),
    ]


def test_a_processor_beyond_what_the_driver_takes_is_none() -> None:
    assert areas(with_processors(CASE, [Processor(0), Processor(255, wide=True)])) == areas(CASE)


@pytest.mark.parametrize("damage", ["an entry without length", "an address override cut short"])
def test_a_madt_that_linux_cannot_walk_ends_acpi(damage: str) -> None:
    table = encode_madt([Processor(0)])
    entry = bytes(8) if damage.startswith("an entry") else b"\x05\x08" + bytes(6)
    broken = replace(CASE, tables=(SRAT, seal(table + entry)))
    outcome = predict(broken, POLICIES["v6.1"]).outcome
    assert (outcome.numa, outcome.numa_reason) == (NumaState.DUMMY, NumaReason.NO_SRAT)
    assert predict(replace(CASE, tables=(SRAT, table)), POLICIES["v6.1"]).outcome.numa is NumaState.SRAT


@pytest.mark.parametrize(
    "name",
    [
        "processors-as-in-srat",
        "processor-without-domain",
        "domain-without-processor",
        "wide-processor",
        "disabled-processor",
        "duplicate-processor",
        "shuffle-processors",
        "domain-of-processors-only",
    ],
)
def test_mutators_set_the_madt_against_the_srat(name: str) -> None:
    made = [MUTATORS[name].apply(CASE, Random(seed)) for seed in range(20)]
    changed = [case for case in made if case != CASE]
    assert changed
    for case in changed:
        table = case.table(MADT)
        assert table is not None
        assert checksum_valid(table)
        assert not disables_acpi(table)


def test_the_madt_is_reserved_first_and_tables_up_to_the_first_without_length() -> None:
    """acpi_reserve_initial_tables() goes by the RSDT, and stops at a table of length 0."""
    empty = SRAT[:4] + bytes(4) + SRAT[8:]
    case = with_processors(replace(CASE, tables=(empty,)), [Processor(0)])
    machine = CASE.machine
    assert isinstance(machine, Q35)
    own_end = machine.resolve(()).placed[-1].end
    reserved = predict(case, POLICIES["v6.1"]).outcome.reserved
    assert reserved is not None
    at = own_end + len(empty)
    assert (at, at + len(case.tables[1])) in {(row.start, row.end) for row in reserved}
    last = replace(case, tables=(case.tables[1][:4] + bytes(4) + case.tables[1][8:], SRAT))
    reserved = predict(last, POLICIES["v6.1"]).outcome.reserved
    assert reserved is not None
    assert not any(row.start < at < row.end or row.start < own_end <= row.end for row in reserved)
