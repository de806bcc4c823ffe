"""Each policy rule fires on a minimal case, with its cause, and is silent on the correct twin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings

from acpitk.checks.catalogue import RULES
from acpitk.checks.differential import panic_class
from acpitk.checks.finding import Finding, Severity
from acpitk.checks.invariants import check
from acpitk.fuzz.strategies import cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES, V6_1
from acpitk.kernel.prediction import Allocation, Prediction
from acpitk.machine import ACPI_TABLES, KERNEL_IMAGE, Q35, Case, E820Entry, E820Type, Machine, Reserved
from acpitk.outcome import NodeData, NumaReason, NumaState, Outcome, Region
from acpitk.ranges import GIB, KIB, MIB
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import (
    Entry,
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    UnknownEntry,
    build_srat,
    encode_srat,
)

CPU = ProcessorAffinity(proximity_domain=0, apic_id=0)
SLIT = encode_slit(build_slit(((10, 20), (20, 10))))
HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE


def plain(domain: int, start: int, end: int) -> MemoryAffinity:
    return MemoryAffinity(proximity_domain=domain, base=start, length=end - start)


def hot(domain: int, start: int, end: int) -> MemoryAffinity:
    return replace(plain(domain, start, end), flags=HOT)


def srat(*entries: Entry, revision: int = 3) -> bytes:
    return encode_srat(build_srat(entries, revision=revision))


def guest(
    *entries: Entry,
    memory: int = 3 * GIB,
    initrd: int = 0,
    slit: bytes | None = SLIT,
    cmdline: str = "movable_node",
    revision: int = 3,
    cpu: Entry = CPU,
) -> Case:
    """A QEMU guest; 3 GiB are 0-2 GiB and 4-5 GiB."""
    tables = (srat(cpu, *entries, revision=revision), *([slit] if slit else []))
    return Case(machine=Q35(memory, initrd), tables=tables, cmdline=cmdline)


LOW = plain(0, 0, 2 * GIB)
HIGH = hot(1, 4 * GIB, 5 * GIB)
GOOD = guest(LOW, HIGH)
SMALL = guest(plain(0, 0, 512 * MIB), hot(1, 512 * MIB, GIB), memory=GIB)


def server(*placed: Reserved) -> Machine:
    """A machine whose upper half holds what is `placed` there."""
    ram = ((0, 0x9FC00), (MIB, 2 * GIB))
    return Machine(e820=tuple(E820Entry(*bounds, E820Type.USABLE) for bounds in ram), placed=placed)


def halves(machine: Machine) -> Case:
    return Case(
        machine=machine, tables=(srat(CPU, plain(0, 0, GIB), hot(1, GIB, 2 * GIB)),), cmdline="movable_node"
    )


WRAPPED = MemoryAffinity(proximity_domain=2, base=4 * GIB + 512 * MIB, length=(1 << 64) - 1, flags=HOT)


@dataclass(frozen=True, slots=True)
class Example:
    """`bad` makes rule fire with `cause`; `twin` does not make it fire at all."""

    rule: str
    cause: str
    bad: Case
    twin: Case = GOOD
    severity: Severity = Severity.WARNING


MIDDLE = (plain(0, 0, 512 * MIB), hot(1, 512 * MIB, GIB), plain(2, GIB, 2 * GIB), plain(3, 4 * GIB, 5 * GIB))
"""Node 1 holds nothing early: page tables go to the top of RAM, ACPI tables to the top below 4 GiB."""
UNCOVERED = guest(plain(0, MIB, 2 * GIB), HIGH)
UNCOVERED_CAUSE = panic_class(str(predict(UNCOVERED, V6_1).outcome.panic))

EXAMPLES = [
    Example("POL-PANIC", UNCOVERED_CAUSE, UNCOVERED, severity=Severity.ERROR),
    Example(
        "POL-NUMA-REJECTED",
        "nodes overlap",
        guest(LOW, hot(1, GIB, 5 * GIB)),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NUMA-REJECTED",
        "nodes do not cover RAM",
        guest(plain(0, 0, GIB), HIGH),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NUMA-REJECTED",
        "SRAT entry rejected: Unexpected header length",
        guest(LOW, HIGH, UnknownEntry(raw=b"\1\x08" + bytes(6))),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NUMA-REJECTED",
        "SRAT entry rejected: Too many proximity domains",
        guest(LOW, hot(5000, 4 * GIB, 5 * GIB)),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NUMA-REJECTED",
        "SRAT entry rejected: processor entry length",
        guest(LOW, HIGH, replace(CPU, declared_length=17, extra=b"\0")),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NUMA-REJECTED",
        "SRAT not mapped",
        Case(machine=Q35(GIB), tables=(srat(CPU)[:4] + bytes(4) + srat(CPU)[8:],), cmdline="movable_node"),
        Case(machine=Q35(GIB), cmdline="movable_node"),
        severity=Severity.ERROR,
    ),
    Example("POL-KERNEL-NODE", KERNEL_IMAGE, guest(hot(0, 0, 2 * GIB), plain(1, 4 * GIB, 5 * GIB))),
    Example(
        "POL-KERNEL-NODE",
        "initrd",
        guest(plain(0, 0, 512 * MIB), hot(1, 512 * MIB, GIB), memory=GIB, initrd=MIB),
        SMALL,
    ),
    Example(
        "POL-KERNEL-NODE",
        ACPI_TABLES,
        halves(server(Reserved(GIB + MIB, GIB + MIB + 4096, ACPI_TABLES))),
        halves(server(Reserved(GIB - MIB, GIB - MIB + 4096, ACPI_TABLES))),
    ),
    Example(
        "POL-KERNEL-NODE",
        "EFI boot services",
        halves(server(Reserved(GIB + MIB, GIB + MIB + 4096, "EFI boot services"))),
        halves(server()),
    ),
    Example(
        "POL-KERNEL-NODE",
        "distance table",
        replace(SMALL, cmdline=""),
        SMALL,
        severity=Severity.NOTE,
    ),
    Example(
        "POL-NODE-DATA",
        "movable_node is off",
        guest(*MIDDLE, slit=None, cmdline=""),
        guest(*MIDDLE, slit=None),
        severity=Severity.NOTE,
    ),
    Example(
        "POL-EARLY-ALLOC",
        "movable_node is off",
        guest(*MIDDLE, slit=None, cmdline=""),
        guest(*MIDDLE, slit=None),
        severity=Severity.NOTE,
    ),
    Example(
        "POL-ALLOC-MOVABLE",
        "",
        guest(LOW, hot(1, 4 * GIB, 4 * GIB + 512 * MIB), plain(1, 4 * GIB + 512 * MIB, 5 * GIB)),
    ),
    Example("POL-ALLOC-MOVABLE", "size given on the command line", replace(GOOD, cmdline="movablecore=512M")),
    Example(
        "POL-HOT-NOT-MOVABLE",
        "start rounded up",
        guest(LOW, plain(0, 4 * GIB, 4 * GIB + MIB), hot(1, 4 * GIB + MIB, 5 * GIB)),
    ),
    Example(
        "POL-HOT-NOT-MOVABLE",
        "no ZONE_MOVABLE on the node",
        guest(
            LOW,
            plain(0, 4 * GIB, 4 * GIB + MIB),
            hot(1, 4 * GIB + MIB, 4 * GIB + 3 * MIB),
            plain(2, 4 * GIB + 3 * MIB, 5 * GIB),
        ),
    ),
    Example(
        "POL-SWEPT",
        "",
        guest(LOW, hot(1, 4 * GIB, 4 * GIB + 512 * MIB), plain(1, 4 * GIB + 512 * MIB, 5 * GIB)),
        guest(LOW, plain(1, 4 * GIB, 4 * GIB + 512 * MIB), hot(1, 4 * GIB + 512 * MIB, 5 * GIB)),
    ),
    Example(
        "POL-KERNEL-MEMORY",
        "",
        guest(plain(0, 0, 128 * MIB), hot(1, 128 * MIB, GIB), memory=GIB),
        guest(plain(0, 0, 256 * MIB), hot(1, 256 * MIB, GIB), memory=GIB),
    ),
    Example(
        "POL-MOVABLE-RATIO",
        "",
        guest(LOW, hot(1, 4 * GIB, 14 * GIB), memory=12 * GIB),
        guest(LOW, hot(1, 4 * GIB, 14 * GIB), memory=9 * GIB),
        severity=Severity.NOTE,
    ),
    Example("POL-ENTRY-IGNORED", "zero length", guest(LOW, HIGH, plain(1, 0, 0))),
    Example("POL-ENTRY-IGNORED", "wraps past 2^64, hot-pluggable", guest(LOW, HIGH, WRAPPED)),
    Example(
        "POL-ENTRY-IGNORED",
        "describes no RAM, hot-pluggable",
        guest(LOW, HIGH, hot(1, 6 * GIB, 7 * GIB)),
        severity=Severity.NOTE,
    ),
    Example(
        "POL-ENTRY-IGNORED",
        "disabled, hot-pluggable",
        guest(LOW, HIGH, replace(HIGH, flags=MemoryFlags.HOT_PLUGGABLE)),
        guest(LOW, HIGH, replace(HIGH, flags=MemoryFlags(0))),
        severity=Severity.NOTE,
    ),
    Example(
        "POL-PXM-MASKED",
        "",
        guest(LOW, hot(0x101, 4 * GIB, 5 * GIB), revision=1),
        guest(LOW, hot(0x101, 4 * GIB, 5 * GIB), revision=2),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NODE-ORDER",
        "",
        guest(LOW, HIGH, cpu=replace(CPU, proximity_domain=1)),
        severity=Severity.NOTE,
    ),
    Example("POL-MEMORYLESS", "", guest(LOW, HIGH, hot(2, 6 * GIB, 7 * GIB)), severity=Severity.NOTE),
    Example(
        "POL-SLIT-IGNORED",
        "invalid matrix",
        guest(LOW, HIGH, slit=encode_slit(build_slit(((10, 9), (9, 10))))),
    ),
    Example("POL-SLIT-IGNORED", "no memory for the distance table", guest(hot(0, 0, 2 * GIB), HIGH)),
    Example(
        "POL-SLIT-ASYMMETRIC",
        "",
        guest(LOW, HIGH, slit=encode_slit(build_slit(((10, 20), (21, 10))))),
        severity=Severity.NOTE,
    ),
    Example(
        "POL-BLOCK-STRADDLE",
        "two nodes",
        guest(LOW, plain(0, 4 * GIB, 4 * GIB + 64 * MIB), hot(1, 4 * GIB + 64 * MIB, 5 * GIB)),
        guest(LOW, plain(0, 4 * GIB, 4 * GIB + 128 * MIB), hot(1, 4 * GIB + 128 * MIB, 5 * GIB)),
    ),
    Example(
        "POL-BLOCK-STRADDLE",
        "two zones",
        guest(LOW, plain(1, 4 * GIB, 4 * GIB + 64 * MIB), hot(1, 4 * GIB + 64 * MIB, 5 * GIB)),
    ),
    Example("POL-NOT-REMOVABLE", "has a hole", SMALL, severity=Severity.NOTE),
    Example("POL-NOT-REMOVABLE", "holds boot-time allocations", replace(GOOD, cmdline="movablecore=512M")),
    Example("POL-BEYOND-RAM", "", guest(LOW, hot(1, 4 * GIB, 8 * GIB)), severity=Severity.NOTE),
    Example(
        "POL-SWIOTLB",
        "",
        guest(plain(0, 0, 512 * MIB), hot(1, 512 * MIB, GIB), hot(1, 4 * GIB, 5 * GIB), memory=GIB),
        SMALL,
    ),
    Example(
        "POL-WRAPPED-MARK",
        "",
        guest(LOW, plain(1, 4 * GIB, 5 * GIB), WRAPPED),
        guest(LOW, HIGH, WRAPPED),
        severity=Severity.ERROR,
    ),
    Example(
        "POL-NOTHING-MOVABLE",
        "the kernel resides on every hot-pluggable node",
        guest(hot(0, 0, 2 * GIB), plain(1, 4 * GIB, 5 * GIB)),
    ),
    Example(
        "POL-NOTHING-MOVABLE",
        "no NUMA configuration from the SRAT",
        guest(LOW, hot(1, GIB, 5 * GIB)),
    ),
    Example(
        "POL-NOTHING-MOVABLE",
        "start rounded past the end of the node",
        guest(
            LOW,
            plain(0, 4 * GIB, 4 * GIB + MIB),
            hot(1, 4 * GIB + MIB, 4 * GIB + 3 * MIB),
            plain(2, 4 * GIB + 3 * MIB, 5 * GIB),
        ),
    ),
    Example(
        "POL-NOTHING-MOVABLE",
        "no RAM is hot-pluggable",
        guest(LOW, plain(1, 4 * GIB, 5 * GIB)),
        guest(LOW, plain(1, 4 * GIB, 5 * GIB), cmdline=""),
        severity=Severity.NOTE,
    ),
    Example("POL-CORE-IGNORED", "movablecore=", replace(GOOD, cmdline="movable_node movablecore=512M")),
    Example(
        "POL-CORE-IGNORED",
        "kernelcore=, nothing movable",
        guest(LOW, plain(1, 4 * GIB, 5 * GIB), cmdline="movable_node kernelcore=1G"),
        guest(LOW, plain(1, 4 * GIB, 5 * GIB), cmdline="kernelcore=1G"),
    ),
    Example("POL-OPTION-OFF", "", replace(GOOD, cmdline="nokaslr"), severity=Severity.NOTE),
    Example("POL-OPTION-OFF", "kernelcore=", replace(GOOD, cmdline="kernelcore=1G"), severity=Severity.NOTE),
    Example("POL-ALL-HOT", "", guest(hot(0, 0, 2 * GIB), HIGH)),
    Example(
        "POL-ADOPTED-RAM",
        "",
        guest(plain(0, 0, GIB), plain(0, GIB + MIB, 2 * GIB), HIGH),
        guest(plain(0, 0, GIB), plain(0, GIB, 2 * GIB), HIGH),
    ),
    Example(
        "POL-OVERLAP-FLAGS",
        "",
        guest(LOW, hot(1, 4 * GIB, 4 * GIB + 640 * MIB), plain(1, 4 * GIB + 512 * MIB, 5 * GIB)),
        guest(LOW, hot(1, 4 * GIB, 4 * GIB + 512 * MIB), plain(1, 4 * GIB + 512 * MIB, 5 * GIB)),
    ),
]

BY_HAND = {"POL-NODE-OFFLINE"}
"""Rules the 6.1 model reaches in no small case; tested on a prediction built by hand."""


def findings(case: Case) -> list[Finding]:
    return check(case, predict(case, V6_1))


def of_rule(found: Sequence[Finding], rule: str) -> list[Finding]:
    return [finding for finding in found if finding.id == rule]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.rule}:{e.cause}")
def test_a_rule_fires_with_its_cause(example: Example) -> None:
    found = of_rule(findings(example.bad), example.rule)
    assert [(finding.cause, finding.severity) for finding in found] == [(example.cause, example.severity)]
    assert found[0].kernels == ("v6.1",)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.rule}:{e.cause}")
def test_a_rule_is_silent_on_the_correct_twin(example: Example) -> None:
    assert of_rule(findings(example.twin), example.rule) == []


def test_every_rule_has_an_example() -> None:
    assert {e.rule for e in EXAMPLES} | BY_HAND == {rule for rule in RULES if rule.startswith("POL-")}


@pytest.mark.parametrize("case", [GOOD, SMALL], ids=["RAM above 4 GiB", "RAM below 4 GiB"])
def test_an_ordinary_hot_node_has_no_errors_or_warnings(case: Case) -> None:
    assert [finding for finding in findings(case) if finding.severity is not Severity.NOTE] == []


HANDMADE = Prediction(
    outcome=Outcome(
        source="model",
        kernel="v6.1",
        numa=NumaState.SRAT,
        numa_reason=NumaReason.ACCEPTED,
        pxm_to_node={0: 0, 1: 1},
        memory=(Region(0, 2 * GIB, 0), Region(4 * GIB, 5 * GIB, 1, ("hotplug",))),
        node_data=(NodeData(0, GIB, GIB + MIB, 0), NodeData(1, GIB - MIB, GIB, 0)),
        zone_movable_start={1: 4 * GIB},
    ),
    kernel_nodes={},
)


def test_a_handmade_good_prediction_has_no_findings() -> None:
    assert check(GOOD, HANDMADE) == []


def test_a_node_with_memory_and_no_node_data_is_offline() -> None:
    alone = replace(HANDMADE, outcome=replace(HANDMADE.outcome, node_data=HANDMADE.outcome.node_data[:1]))  # type: ignore[index]
    assert [finding.signature for finding in check(GOOD, alone)] == ["POL-NODE-OFFLINE"]


@pytest.mark.parametrize(
    ("purpose", "signature"),
    [
        ("NODE_DATA(1)", "POL-NODE-DATA"),
        ("memory map of 12 sections", "POL-EARLY-ALLOC:memory map of N sections"),
    ],
)
def test_allocations_in_hot_memory_under_movable_node(purpose: str, signature: str) -> None:
    stray = Allocation(purpose=purpose, start=4 * GIB, end=4 * GIB + 4 * KIB, wanted_nid=1)
    (found,) = check(GOOD, replace(HANDMADE, allocations=(stray,)))
    assert (found.signature, found.severity) == (signature, Severity.WARNING)


def test_what_was_not_observed_is_not_judged() -> None:
    bare = Prediction(outcome=Outcome(source="boot", kernel="v6.1"), kernel_nodes={})
    assert check(GOOD, bare) == []


def test_a_kernel_node_names_every_owner_and_its_cause_the_first() -> None:
    (found,) = of_rule(findings(guest(hot(0, 0, 2 * GIB), plain(1, 4 * GIB, 5 * GIB))), "POL-KERNEL-NODE")
    assert found.cause == KERNEL_IMAGE
    assert "kernel image" in found.actual
    assert "low memory" in found.actual


@pytest.mark.parametrize(("policy", "silent"), [("seed-2013", True), ("v6.1", False)])
def test_the_option_is_the_kernels_own_word(policy: str, silent: bool) -> None:
    case = replace(GOOD, cmdline="movablenode")
    found = of_rule(check(case, predict(case, POLICIES[policy])), "POL-OPTION-OFF")
    assert (found == []) is silent


def test_a_zero_length_entry_rejects_the_configuration_by_name() -> None:
    table = seal(srat(CPU, LOW, HIGH) + b"\7\0" + bytes(8))
    found = findings(Case(machine=Q35(3 * GIB), tables=(table,), cmdline="movable_node"))
    assert [f.cause for f in of_rule(found, "POL-NUMA-REJECTED")] == ["zero-length subtable"]


@settings(deadline=None, max_examples=200)
@given(cases())
def test_signatures_are_free_of_addresses_and_sizes(case: Case) -> None:
    prediction = predict(case, V6_1)
    found = check(case, prediction)
    assert check(case, prediction) == found
    for finding in found:
        assert not re.search(r"0x|\d{2,}", finding.cause.replace("2^64", ""))
        assert finding.where
        assert finding.expected
        assert finding.actual
