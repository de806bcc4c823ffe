"""Each rule of `spec.lint` fires on a minimal example, at its byte, and is silent on the correct twin."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acpitk.checks.catalogue import RULES
from acpitk.checks.finding import Finding, Severity
from acpitk.checks.spec import lint, usable_ram
from acpitk.fuzz.strategies import cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import V6_1
from acpitk.machine import Q35, Case, E820Entry, E820Type, Machine
from acpitk.outcome import NumaReason
from acpitk.ranges import GIB, KIB, MIB
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import (
    AcpiHandle,
    Entry,
    GenericFlags,
    GenericInitiatorAffinity,
    GenericPortAffinity,
    ItsAffinity,
    MemoryAffinity,
    MemoryFlags,
    PciHandle,
    ProcessorAffinity,
    ProcessorFlags,
    UnknownEntry,
    UnknownHandle,
    X2ApicAffinity,
    build_srat,
    encode_srat,
)

HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
CPU0, CPU1 = (ProcessorAffinity(proximity_domain=i, apic_id=i) for i in (0, 1))
"""At bytes 48 and 64; what follows them starts at 80."""


def memory(
    domain: int, start: int, end: int, flags: MemoryFlags = MemoryFlags.ENABLED, **fields: int
) -> MemoryAffinity:
    return MemoryAffinity(proximity_domain=domain, base=start, length=end - start, flags=flags, **fields)


MEM0, MEM1 = memory(0, 0, 2 * GIB), memory(1, 2 * GIB, 4 * GIB, HOT)
GOOD_ENTRIES: tuple[Entry, ...] = (CPU0, CPU1, MEM0, MEM1)


def srat(*entries: Entry, revision: int = 3, tail: bytes = b"") -> bytes:
    """A sealed SRAT; `tail` follows the last entry and counts."""
    return seal(encode_srat(build_srat(entries, revision=revision)) + tail)


def slit(*rows: Sequence[int], tail: bytes = b"", revision: int = 1) -> bytes:
    return seal(encode_slit(build_slit(rows, revision=revision)) + tail)


def patched(table: bytes, offset: int, value: bytes) -> bytes:
    """`table` with some bytes replaced, sealed again."""
    return seal(table[:offset] + value + table[offset + len(value) :])


GOOD = srat(*GOOD_ENTRIES)
GOOD_SLIT = slit((10, 20), (20, 10))
EMPTY_MADT = seal(b"APIC" + struct.pack("<IBB6s8sI4sI", 0, 5, 0, b"", b"", 1, b"", 1) + bytes(8))


def machine(*usable: tuple[int, int]) -> Machine:
    return Machine(e820=tuple(E820Entry(start, end, E820Type.USABLE) for start, end in usable))


RAM = machine((0, 0xA0000), (MIB, 4 * GIB))


@dataclass(frozen=True, slots=True)
class Example:
    rule: str
    bad: tuple[bytes, ...]
    offset: int
    twin: tuple[bytes, ...] = (GOOD, GOOD_SLIT)
    severity: Severity | None = None
    machine: Machine | None = None
    twin_machine: Machine | None = None


def with_entries(
    rule: str, entry: Entry, offset: int, twin: Entry, severity: Severity | None = None
) -> Example:
    """One entry added to a good table, at byte 160, or `offset` in it."""
    return Example(
        rule, (srat(*GOOD_ENTRIES, entry),), 160 + offset, (srat(*GOOD_ENTRIES, twin),), severity=severity
    )


def initiator(handle: AcpiHandle | PciHandle | UnknownHandle, **fields: int) -> GenericInitiatorAffinity:
    return GenericInitiatorAffinity(proximity_domain=1, handle=handle, **fields)


PCI = PciHandle(segment=0, bus=1, devfn=8)
ITS = ItsAffinity(proximity_domain=0, its_id=0)
NODE1_UP = memory(1, 4 * GIB, 5 * GIB)
DISABLED_GI = replace(initiator(PCI), flags=GenericFlags(0))

EXAMPLES = [
    Example("TABLE-LENGTH", (EMPTY_MADT + b"\0",), 4, (EMPTY_MADT,)),
    Example("TABLE-CHECKSUM", (EMPTY_MADT[:-1] + b"\1",), 9, (EMPTY_MADT,)),
    Example("TABLE-UNREADABLE", (b"APIC",), 4, (EMPTY_MADT,)),
    Example("TABLE-UNREADABLE", (b"SRAT",), 4),
    Example("TABLE-UNREADABLE", (GOOD[:47],), 47),
    Example("TABLE-UNREADABLE", (GOOD_SLIT[:40],), 40),
    Example("TABLE-DUPLICATE", (GOOD, GOOD), 0),
    Example("SRAT-LENGTH", (GOOD + b"\0",), 4),
    Example("SRAT-LENGTH", (GOOD[:-40],), 4),
    Example("SRAT-CHECKSUM", (GOOD[:9] + bytes([GOOD[9] ^ 1]) + GOOD[10:],), 9),
    Example("SRAT-REVISION", (srat(*GOOD_ENTRIES, revision=0),), 8),
    Example("SRAT-REVISION", (srat(*GOOD_ENTRIES, revision=4),), 8, severity=Severity.NOTE),
    Example("SRAT-REVISION", (srat(*GOOD_ENTRIES, revision=5),), 8, (srat(*GOOD_ENTRIES, revision=1),)),
    Example("SRAT-HEADER-RESERVED", (patched(GOOD, 36, b"\2"),), 36),
    Example("SRAT-HEADER-RESERVED", (patched(GOOD, 47, b"\2"),), 40),
    Example(
        "SRAT-TOO-BIG", (srat(*GOOD_ENTRIES, *[ITS] * 22000),), 4, (srat(*GOOD_ENTRIES, *[ITS] * 21000),)
    ),
    with_entries("SRAT-ENTRY-TYPE", UnknownEntry(raw=b"\x77\x03\0"), 0, ITS),
    with_entries("SRAT-ENTRY-SHORT", UnknownEntry(raw=b"\x01\x20" + bytes(30)), 1, NODE1_UP),
    Example("SRAT-ENTRY-SHORT", (srat(*GOOD_ENTRIES, tail=b"\x77\1" + bytes(8)),), 161),
    with_entries(
        "SRAT-ENTRY-LONG",
        replace(NODE1_UP, declared_length=41, extra=b"\0"),
        1,
        NODE1_UP,
        Severity.WARNING,
    ),
    with_entries(
        "SRAT-ENTRY-LONG",
        ProcessorAffinity(proximity_domain=0, apic_id=2, declared_length=17, extra=b"\0"),
        1,
        ProcessorAffinity(proximity_domain=0, apic_id=2),
        Severity.ERROR,
    ),
    Example("SRAT-ENTRY-ZERO", (srat(*GOOD_ENTRIES, tail=b"\1" + bytes(39)),), 161),
    Example("SRAT-ENTRY-OVERRUN", (srat(*GOOD_ENTRIES, tail=b"\1\x28" + bytes(37)),), 161),
    Example("SRAT-TRAILING", (srat(*GOOD_ENTRIES, tail=b"\0"),), 160),
    Example("SRAT-TRAILING", (srat(*GOOD_ENTRIES, tail=b"\0\0"),), 160),
    with_entries("SRAT-RESERVED", replace(NODE1_UP, reserved3=1), 0, NODE1_UP, Severity.WARNING),
    with_entries("SRAT-RESERVED", replace(NODE1_UP, reserved2=1), 0, NODE1_UP, Severity.NOTE),
    with_entries("SRAT-RESERVED", replace(NODE1_UP, flags=MemoryFlags(0x11)), 0, NODE1_UP),
    with_entries("SRAT-RESERVED", replace(ITS, reserved=1), 0, ITS),
    with_entries("SRAT-RESERVED", initiator(replace(PCI, reserved=b"\1" * 12)), 0, initiator(PCI)),
    with_entries(
        "SRAT-RESERVED",
        initiator(AcpiHandle(hid=b"ACPI0016", uid=0, reserved=1)),
        0,
        initiator(AcpiHandle(hid=b"ACPI0016", uid=0)),
    ),
    with_entries(
        "SRAT-MEM-EMPTY", memory(1, 4 * GIB, 4 * GIB), 0, memory(1, 4 * GIB, 4 * GIB, MemoryFlags(0))
    ),
    with_entries(
        "SRAT-MEM-WRAP",
        memory(1, 4 * GIB, 1 << 64),
        0,
        memory(1, 4 * GIB, (1 << 64) - 4096),
    ),
    with_entries("SRAT-MEM-PAGE", memory(1, 4 * GIB, 5 * GIB + 100), 0, NODE1_UP),
    with_entries("SRAT-MEM-OVERLAP", memory(1, GIB, 2 * GIB), 0, NODE1_UP),
    with_entries("SRAT-MEM-OVERLAP-SAME", memory(0, GIB, 2 * GIB), 0, memory(0, 4 * GIB, 5 * GIB)),
    with_entries(
        "SRAT-MEM-FLAGS", memory(0, GIB, 2 * GIB, HOT), 28, memory(0, GIB, 2 * GIB), Severity.WARNING
    ),
    with_entries("SRAT-MEM-BLOCK", memory(1, 4 * GIB, 4 * GIB + 64 * MIB, HOT), 0, NODE1_UP),
    Example("SRAT-ALL-HOT", (srat(CPU0, CPU1, replace(MEM0, flags=HOT), MEM1),), 80),
    Example("SRAT-NO-MEMORY", (srat(CPU0, CPU1),), 48),
    Example(
        "SRAT-TOO-MANY",
        (srat(CPU0, *(memory(0, i * MIB, (i + 1) * MIB) for i in range(2049))),),
        64 + 2048 * 40,
        (srat(CPU0, *(memory(0, i * MIB, (i + 1) * MIB) for i in range(2048))),),
    ),
    with_entries(
        "SRAT-CPU-DUPLICATE",
        ProcessorAffinity(proximity_domain=1, apic_id=0),
        0,
        ProcessorAffinity(proximity_domain=0, apic_id=0),
    ),
    with_entries(
        "SRAT-CPU-DUPLICATE",
        X2ApicAffinity(proximity_domain=1, x2apic_id=0),
        0,
        X2ApicAffinity(proximity_domain=1, x2apic_id=0, flags=ProcessorFlags(0)),
    ),
    with_entries(
        "SRAT-X2APIC-ID",
        X2ApicAffinity(proximity_domain=1, x2apic_id=254),
        0,
        X2ApicAffinity(proximity_domain=1, x2apic_id=255),
    ),
    Example(
        "SRAT-PXM-REVISION",
        (srat(*GOOD_ENTRIES, memory(0x101, 4 * GIB, 5 * GIB), revision=1),),
        162,
        (srat(*GOOD_ENTRIES, memory(0x101, 4 * GIB, 5 * GIB), revision=2),),
    ),
    with_entries("SRAT-PXM-LIMIT", memory(1024, 4 * GIB, 5 * GIB), 0, memory(1023, 4 * GIB, 5 * GIB)),
    with_entries("SRAT-DOMAIN-GAP", memory(3, 4 * GIB, 5 * GIB), 0, memory(2, 4 * GIB, 5 * GIB)),
    with_entries("SRAT-HANDLE-TYPE", initiator(UnknownHandle(type=2, raw=bytes(16))), 3, initiator(PCI)),
    with_entries(
        "SRAT-HANDLE-TYPE",
        GenericPortAffinity(proximity_domain=1, handle=UnknownHandle(type=9, raw=bytes(16))),
        3,
        GenericPortAffinity(proximity_domain=1, handle=PCI),
    ),
    Example("SRAT-GI-DISABLED", (srat(DISABLED_GI, *GOOD_ENTRIES),), 48, (srat(*GOOD_ENTRIES, DISABLED_GI),)),
    Example("SLIT-LENGTH", (GOOD_SLIT + b"\0",), 4),
    Example("SLIT-CHECKSUM", (GOOD_SLIT[:9] + bytes([GOOD_SLIT[9] ^ 1]) + GOOD_SLIT[10:],), 9),
    Example("SLIT-REVISION", (slit((10, 20), (20, 10), revision=2),), 8),
    Example("SLIT-COUNT", (patched(GOOD_SLIT, 36, b"\3"),), 36),
    Example("SLIT-COUNT", (patched(GOOD_SLIT, 36, b"\xff" * 8),), 36),
    Example("SLIT-TRAILING", (slit((10, 20), (20, 10), tail=b"\1"),), 48, severity=Severity.WARNING),
    Example("SLIT-TRAILING", (slit((10, 20), (20, 10), tail=b"\0"),), 48, severity=Severity.NOTE),
    Example("SLIT-DIAGONAL", (slit((10, 20), (20, 11)),), 47),
    Example("SLIT-DISTANCE", (slit((10, 9), (20, 10)),), 45),
    Example("SLIT-REMOTE", (slit((10, 20), (10, 10)),), 46),
    Example("SLIT-ASYMMETRIC", (slit((10, 20), (21, 10)),), 46),
    Example("SLIT-UNREACHABLE", (slit((10, 255), (255, 10)),), 45, (slit((10, 254), (254, 10)),)),
    Example("SLIT-DOMAIN-MISSING", (GOOD, slit((10,))), 36),
    Example("SLIT-DOMAIN-EXTRA", (srat(CPU0, MEM0), GOOD_SLIT), 36),
    Example(
        "MAP-UNCOVERED",
        (srat(CPU0, CPU1, memory(0, MIB, 2 * GIB), MEM1),),
        80,
        machine=RAM,
        twin_machine=RAM,
    ),
    Example("MAP-UNCOVERED", (GOOD,), 120, machine=machine((MIB, 4 * GIB + 4 * KIB)), twin_machine=RAM),
    Example(
        "MAP-SWALLOWED",
        (srat(CPU0, CPU1, memory(0, 0, GIB), memory(0, GIB + MIB, 2 * GIB), MEM1),),
        80,
        machine=RAM,
        twin_machine=RAM,
    ),
    Example("MAP-NO-RAM", (srat(*GOOD_ENTRIES, NODE1_UP),), 160, machine=RAM, twin_machine=RAM),
]


def of_rule(findings: Sequence[Finding], rule: str) -> list[Finding]:
    return [finding for finding in findings if finding.id == rule]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.rule)
def test_a_rule_fires_at_its_byte(example: Example) -> None:
    found = of_rule(lint(example.bad, machine=example.machine), example.rule)
    assert [finding.offset for finding in found] == [example.offset]
    assert found[0].severity is (example.severity or found[0].severity)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.rule)
def test_a_rule_is_silent_on_the_correct_twin(example: Example) -> None:
    assert not of_rule(lint(example.twin, machine=example.twin_machine), example.rule)


def test_every_rule_has_an_example() -> None:
    prefixes = ("TABLE-", "SRAT-", "SLIT-", "MAP-")
    assert {example.rule for example in EXAMPLES} == {rule for rule in RULES if rule.startswith(prefixes)}


def test_a_good_set_of_tables_has_no_findings() -> None:
    assert lint((GOOD, GOOD_SLIT, EMPTY_MADT), machine=RAM) == []


def test_a_mapping_names_the_tables() -> None:
    found = lint({"board/srat.bin": GOOD + b"\0", "board/slit.bin": GOOD_SLIT})
    assert [finding.where for finding in found if finding.id == "SRAT-LENGTH"] == [
        "board/srat.bin header, Length"
    ]


def test_disabled_entries_are_silent() -> None:
    disabled = [
        memory(0, GIB, 3 * GIB, MemoryFlags(0), reserved1=1),
        memory(7, 0, 0, MemoryFlags(0)),
        replace(CPU0, proximity_domain=900, flags=ProcessorFlags(0)),
    ]
    assert lint((srat(*GOOD_ENTRIES, *disabled),)) == []


@pytest.mark.parametrize(
    ("missing", "fate"), [(4 * KIB, "Linux panics"), (MIB, "the NUMA configuration is dropped")]
)
def test_uncovered_ram_tells_rejection_from_panic(missing: int, fate: str) -> None:
    tables = (srat(CPU0, CPU1, MEM0, memory(1, 2 * GIB, 4 * GIB - missing, HOT)),)
    assert [f.cause for f in of_rule(lint(tables, machine=RAM), "MAP-UNCOVERED")] == [fate]


def test_overlaps_are_found_across_entries_in_between() -> None:
    """The wide entry of domain 0 overlaps the last one, although two others lie between their starts."""
    tables = (
        srat(
            memory(0, 0, 8 * GIB),
            memory(0, 1 * GIB, 2 * GIB),
            memory(0, 2 * GIB, 3 * GIB),
            memory(1, 6 * GIB, 9 * GIB),
        ),
    )
    assert [finding.offset for finding in of_rule(lint(tables), "SRAT-MEM-OVERLAP")] == [48 + 3 * 40]


def test_usable_ram_is_whole_pages_outside_page_0_and_the_legacy_hole() -> None:
    entries = (
        E820Entry(0, 2 * MIB + 100, E820Type.USABLE),
        E820Entry(MIB + 0x10800, MIB + 0x20000, E820Type.RESERVED),
    )
    assert usable_ram(Machine(e820=entries)) == [
        (0x1000, 0xA0000),
        (MIB, MIB + 0x10000),
        (MIB + 0x20000, 2 * MIB),
    ]


def test_real_tables_have_no_errors_or_warnings(real_tables: Path) -> None:
    boards: dict[str, dict[str, bytes]] = {}
    for path in sorted(real_tables.glob("*.bin")):
        boards.setdefault(path.name.split(".")[0], {})[path.name] = path.read_bytes()
    assert boards
    for board, tables in boards.items():
        assert [f for f in lint(tables) if f.severity is not Severity.NOTE] == [], board


@given(st.binary(max_size=300), st.sampled_from([b"", GOOD[:48], GOOD_SLIT[:44], GOOD]))
def test_any_bytes_are_judged_without_an_error(tail: bytes, head: bytes) -> None:
    for finding in lint((head + tail,), machine=RAM):
        assert finding.offset is not None
        assert finding.id in RULES


@settings(deadline=None)
@given(st.permutations(GOOD_ENTRIES), st.data())
def test_findings_about_memory_do_not_depend_on_entry_order(
    order: Sequence[Entry], data: st.DataObject
) -> None:
    extra = data.draw(
        st.lists(
            st.builds(
                lambda domain, start, size: memory(domain, start * MIB, (start + size) * MIB),
                st.integers(0, 2),
                st.integers(0, 5000),
                st.integers(1, 2000),
            ),
            max_size=3,
        )
    )
    rules = ("SRAT-MEM-OVERLAP", "SRAT-MEM-OVERLAP-SAME", "MAP-UNCOVERED", "MAP-NO-RAM")
    before = {f.id for f in lint((srat(*GOOD_ENTRIES, *extra),), machine=RAM)}
    after = {f.id for f in lint((srat(*extra, *order),), machine=RAM)}
    assert before & set(rules) == after & set(rules)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([0, 0, 0, 4 * KIB, 64 * KIB, 64 * MIB]),
            st.sampled_from([64 * KIB, 128 * MIB, 256 * MIB, 600 * MIB]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_uncovered_ram_is_what_linux_refuses(pieces: Sequence[tuple[int, int, int]]) -> None:
    """Entries with gaps: lint says MAP-UNCOVERED exactly where the model rejects the coverage or panics."""
    entries = []
    at = 0
    for domain, gap, size in pieces:
        entries.append(memory(domain, at + gap, at + gap + size))
        at += gap + size
    case = Case(machine=Q35(1 * GIB), tables=(srat(*entries),))
    outcome = predict(case, V6_1).outcome
    refused = outcome.numa_reason is NumaReason.COVERAGE or outcome.panic is not None
    found = of_rule(lint(case.tables, machine=case.resolved()), "MAP-UNCOVERED")
    assert bool(found) == refused
    assert [f.cause == "Linux panics" for f in found] == [outcome.panic is not None] * len(found)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_generated_tables_are_judged(case: Case) -> None:
    for finding in lint(case.tables, machine=case.resolved()):
        assert finding.offset is not None
        assert finding.to_json()["id"] in RULES
