"""Laws of comparing outcomes, and each field's differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.checks.catalogue import RULES
from acpitk.checks.differential import Verdict, compare, findings, foretold, panic_class, unforetold
from acpitk.checks.finding import Severity
from acpitk.outcome import Block, NodeData, NumaReason, NumaState, Outcome, Region, Zone
from acpitk.ranges import MIB

FULL = Outcome(
    source="model",
    kernel="v6.1",
    numa=NumaState.SRAT,
    numa_reason=NumaReason.ACCEPTED,
    pxm_to_node={0: 0, 1: 1},
    memory=(Region(0, 512 * MIB, 0), Region(512 * MIB, 1024 * MIB, 1, ("hotplug",))),
    reserved=(Region(16 * MIB, 56 * MIB, 0), Region(0, MIB, 0)),
    node_data=(NodeData(0, 510 * MIB, 511 * MIB, 0), NodeData(1, 509 * MIB, 510 * MIB, 0)),
    distances=((10, 20), (20, 10)),
    zone_movable_start={1: 512 * MIB},
    zones=(Zone(0, "DMA32", 16 * MIB, 512 * MIB), Zone(1, "Movable", 512 * MIB, 1024 * MIB)),
    blocks=(Block(512 * MIB, 640 * MIB, 1, "Movable", True, "wholly in ZONE_MOVABLE"),),
    messages=("one",),
)
BOOT = replace(FULL, source="boot")

CHANGES: Mapping[str, tuple[Any, str, str]] = {
    "numa": (NumaState.DUMMY, "DIFF-NUMA", "numa: expected srat, got dummy"),
    "numa_reason": (
        NumaReason.OVERLAP,
        "DIFF-NUMA-REASON",
        "numa_reason: expected accepted, got nodes overlap",
    ),
    "pxm_to_node": (
        {1: 2, 5: 0},
        "DIFF-PXM",
        "pxm_to_node, proximity domain 1: expected node 1, got node 2",
    ),
    "memory": (
        (Region(0, 512 * MIB, 0), Region(512 * MIB, 1024 * MIB, 1)),
        "DIFF-MEMORY",
        "memory, 0x20000000-0x40000000: expected node 1 hotplug, got node 1",
    ),
    "reserved": (
        (Region(16 * MIB, 56 * MIB, 0), Region(0, 2 * MIB, 0)),
        "DIFF-RESERVED",
        "reserved, 0x100000-0x200000: expected absent, got node 0",
    ),
    "node_data": (
        (NodeData(0, 510 * MIB, 511 * MIB, 0), NodeData(1, 900 * MIB, 901 * MIB, 1)),
        "DIFF-NODE-DATA",
        "node_data, node 1: expected 0x1fd00000-0x1fe00000 on node 0, got 0x38400000-0x38500000 on node 1",
    ),
    "distances": (((10, 20), (21, 10)), "DIFF-DISTANCES", "distances, node 1 to 0: expected 20, got 21"),
    "zone_movable_start": (
        {},
        "DIFF-ZONE-MOVABLE",
        "zone_movable_start, node 1: expected 0x20000000, got none",
    ),
    "zones": (
        (Zone(0, "DMA32", 16 * MIB, 512 * MIB),),
        "DIFF-ZONES",
        "zones, node 1 Movable: expected 0x20000000-0x40000000, got absent",
    ),
    "blocks": (
        (Block(512 * MIB, 640 * MIB, 1, "Movable", False, "busy"),),
        "DIFF-BLOCKS",
        "blocks, block 0x20000000-0x28000000: expected node 1, zone Movable, removable, "
        "got node 1, zone Movable, not removable",
    ),
    "panic": (
        "Kernel panic - not syncing: System is deadlocked on memory",
        "DIFF-PANIC",
        "panic: expected the kernel lives, "
        "got panic: Kernel panic - not syncing: System is deadlocked on memory",
    ),
}

regions = st.builds(
    Region,
    st.integers(0, 20),
    st.integers(21, 40),
    st.none() | st.integers(0, 3),
    st.sampled_from([(), ("hotplug",)]),
)
outcomes = st.builds(
    Outcome,
    source=st.just("model"),
    kernel=st.sampled_from(["v6.1", "v7.3"]),
    numa=st.none() | st.sampled_from(NumaState),
    numa_reason=st.none() | st.sampled_from(NumaReason),
    pxm_to_node=st.none() | st.dictionaries(st.integers(0, 4), st.integers(0, 4)),
    memory=st.none() | st.lists(regions, max_size=1).map(tuple),
    reserved=st.none() | st.lists(regions, max_size=1).map(tuple),
    node_data=st.none()
    | st.lists(
        st.builds(NodeData, st.integers(0, 3), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3))
    ).map(tuple),
    distances=st.none()
    | st.integers(0, 3).flatmap(
        lambda n: st.tuples(*[st.tuples(*[st.integers(10, 255)] * n)] * n)  # type: ignore[arg-type]
    ),
    zone_movable_start=st.none() | st.dictionaries(st.integers(0, 4), st.integers(0, 9)),
    zones=st.none()
    | st.lists(
        st.builds(
            Zone,
            st.integers(0, 3),
            st.sampled_from(["DMA", "Movable"]),
            st.integers(0, 9),
            st.integers(0, 9),
        )
    ).map(tuple),
    panic=st.none() | st.sampled_from(["Oops 1", "Oops 0x2", "other"]),
)


@given(outcomes)
def test_an_outcome_does_not_differ_from_itself(outcome: Outcome) -> None:
    comparison = compare(outcome, replace(outcome, source="boot"))
    assert comparison.agrees
    assert Verdict.DIFFER not in comparison.fields.values()
    assert findings(comparison) == []


@given(outcomes, outcomes)
def test_verdicts_do_not_depend_on_the_side(left: Outcome, right: Outcome) -> None:
    there, back = compare(left, right), compare(right, left)
    assert there.fields == back.fields
    assert [(d.field, d.where, d.actual, d.expected) for d in there.differences] == [
        (d.field, d.where, d.expected, d.actual) for d in back.differences
    ]


@given(outcomes, outcomes)
def test_the_fields_that_differ_are_those_with_differences(left: Outcome, right: Outcome) -> None:
    comparison = compare(left, right)
    assert {d.field for d in comparison.differences} == {
        name for name, verdict in comparison.fields.items() if verdict is Verdict.DIFFER
    }
    assert len(findings(comparison)) == comparison.counts[Verdict.DIFFER]
    assert sum(comparison.counts.values()) == len(comparison.fields)


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(outcome: Outcome, random: Any) -> None:
    rows = {
        name: tuple(random.sample(value, len(value)))
        for name in ("memory", "reserved", "node_data", "zones")
        if (value := getattr(outcome, name)) is not None
    }
    assert compare(outcome, replace(outcome, **rows)).agrees


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_is_the_only_difference(field: str) -> None:
    value, rule, line = CHANGES[field]
    comparison = compare(FULL, replace(BOOT, **{field: value}))
    assert [str(difference) for difference in comparison.differences] == [line]
    found = findings(comparison)
    assert [finding.id for finding in found] == [rule]
    assert found[0].cause.startswith("model and boot: ")
    assert found[0].kernels == ("v6.1",)


@pytest.mark.parametrize("field", [name for name in CHANGES if name != "panic"])
def test_a_field_that_one_side_did_not_observe_is_counted_not_compared(field: str) -> None:
    for sides in ((replace(FULL, **{field: None}), BOOT), (FULL, replace(BOOT, **{field: None}))):
        comparison = compare(*sides)
        assert comparison.fields[field] is Verdict.NOT_OBSERVED
        assert comparison.agrees
        assert comparison.counts == {
            Verdict.AGREE: len(CHANGES) - 1,
            Verdict.DIFFER: 0,
            Verdict.NOT_OBSERVED: 1,
        }


def test_every_field_of_an_outcome_is_compared_or_meant_not_to_be() -> None:
    names = {field.name for field in fields(Outcome)}
    assert set(compare(FULL, BOOT).fields) == names - {"source", "kernel", "channel", "messages"}
    assert set(CHANGES) == set(compare(FULL, BOOT).fields)
    assert {rule for _, rule, _ in CHANGES.values()} == {
        rule for rule in RULES if rule.startswith("DIFF-") and rule != "DIFF-ALLOCATIONS"
    }


def test_messages_are_not_compared() -> None:
    assert compare(FULL, replace(BOOT, messages=("two",))).agrees


def test_domains_only_one_side_printed_are_not_compared() -> None:
    assert compare(FULL, replace(BOOT, pxm_to_node={1: 1})).fields["pxm_to_node"] is Verdict.AGREE
    assert compare(FULL, replace(BOOT, pxm_to_node={})).fields["pxm_to_node"] is Verdict.NOT_OBSERVED


def test_a_region_in_two_equal_parts_is_the_same_region() -> None:
    halves = (Region(0, 100 * MIB, 0), Region(100 * MIB, 512 * MIB, 0), FULL.memory[1])  # type: ignore[index]
    assert compare(FULL, replace(BOOT, memory=halves)).agrees


def test_a_moved_bound_is_one_difference() -> None:
    moved = (Region(0, 500 * MIB, 0), Region(500 * MIB, 1024 * MIB, 1, ("hotplug",)))
    comparison = compare(FULL, replace(BOOT, memory=moved))
    assert [str(difference) for difference in comparison.differences] == [
        "memory, 0x1f400000-0x20000000: expected node 0, got node 1 hotplug"
    ]


def test_panics_of_one_class_agree() -> None:
    first = "Kernel panic - not syncing: Cannot allocate 176064 bytes for node 1 data"
    second = "Cannot allocate 4096 bytes for node 0 data"
    assert panic_class(first) == panic_class(second) == "cannot allocate N bytes for node N data"
    assert compare(replace(FULL, panic=first), replace(BOOT, panic=second)).agrees
    assert not compare(replace(FULL, panic=first), replace(BOOT, panic="Fatal exception")).agrees


def test_causes_are_free_of_addresses() -> None:
    signatures = {
        findings(compare(FULL, replace(BOOT, zone_movable_start={1: at})))[0].signature
        for at in (516 * MIB, 640 * MIB)
    }
    assert signatures == {"DIFF-ZONE-MOVABLE:model and boot: N -> N"}


def test_kernels_are_told_apart_by_name_and_severity_is_the_callers() -> None:
    comparison = compare(FULL, replace(FULL, kernel="v7.3", zone_movable_start={}))
    (found,) = findings(comparison, severity=Severity.WARNING)
    assert found.signature == "DIFF-ZONE-MOVABLE:v6.1 and v7.3: N -> none"
    assert (found.severity, found.kernels) == (Severity.WARNING, ("v6.1", "v7.3"))


def test_the_function_a_kernel_panics_in_is_not_compared() -> None:
    oops = "BUG: kernel NULL pointer dereference"
    sides = [
        replace(FULL, panic=f"{oops}{place}") for place in ("", " in free_area_init", " in mm_core_init")
    ]
    assert all(compare(one, other).agrees for one in sides for other in sides)
    assert not compare(sides[1], FULL).agrees


def test_a_boot_that_takes_minutes_is_not_judged_by_its_clock() -> None:
    slow = Outcome(source="model", kernel="v6.1", messages=("walk: 0x100000000 localities to go through",))
    hang = Outcome(source="boot", kernel="v6.1", panic="hang")
    assert compare(slow, hang).fields["panic"] is Verdict.NOT_OBSERVED
    assert compare(replace(slow, messages=()), hang).fields["panic"] is Verdict.DIFFER


def _pair(change: Mapping[str, Any], *, source: str) -> Any:
    one = replace(FULL, source=source, kernel="v6.1")
    return compare(one, replace(one, kernel="v7.3", **change))


MOVED = {"zone_movable_start": {1: 513 * MIB}}


def test_kernels_that_differ_as_their_rows_do_are_foretold() -> None:
    booted, rows = _pair(MOVED, source="boot"), _pair(MOVED, source="model")
    assert foretold(booted, rows) == {"zone_movable_start": True}
    assert unforetold(booted, rows) == []


@pytest.mark.parametrize("modelled", [{}, {"zone_movable_start": {1: 514 * MIB}}])
def test_kernels_that_differ_otherwise_than_their_rows_are_one_finding(modelled: Mapping[str, Any]) -> None:
    later = {"zones": (Zone(0, "DMA32", 16 * MIB, 512 * MIB),)}
    (found,) = unforetold(_pair({**MOVED, **later}, source="boot"), _pair(modelled, source="model"))
    assert found.signature == "DIFF-ZONE-MOVABLE:boot v6.1 and boot v7.3: N -> N"
    assert found.severity is Severity.ERROR
    assert found.kernels == ("v6.1", "v7.3")


def test_domains_that_a_boot_does_not_print_may_differ_as_well() -> None:
    booted = _pair({"pxm_to_node": {0: 1}}, source="boot")
    assert foretold(booted, _pair({"pxm_to_node": {0: 1, 1: 0}}, source="model")) == {"pxm_to_node": True}
    assert foretold(booted, _pair({"pxm_to_node": {1: 0}}, source="model")) == {"pxm_to_node": False}


def test_a_death_in_another_function_is_the_same_death() -> None:
    null, lost = "BUG: kernel NULL pointer dereference", "cannot allocate"
    rows, booted = (
        compare(replace(FULL, panic=one), replace(FULL, kernel="v7.3", panic=other))
        for one, other in ((null, lost), (f"{null} in one", f"Kernel panic - not syncing: {lost}"))
    )
    assert foretold(booted, rows) == {"panic": True}
