"""Two rows of the model on hand-made cases: each difference is laid to the behaviour that makes it."""

from __future__ import annotations

from random import Random

import pytest

from acpitk.checks.attribution import BUILD, attribute, attributed_findings, with_option
from acpitk.checks.differential import Verdict
from acpitk.fuzz.mutators import mutate
from acpitk.fuzz.strategies import draw_cases
from acpitk.kernel.policy import BEHAVIOURS, POLICIES, policy_diff
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, ProcessorAffinity, build_srat, encode_srat

PLAIN, HOT = MemoryFlags.ENABLED, MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
DISABLED_HOT = MemoryFlags.HOT_PLUGGABLE
SLIT = encode_slit(build_slit([[10, 21], [21, 10]]))


def mem(domain: int, start: int, end: int, flags: MemoryFlags = PLAIN) -> MemoryAffinity:
    return MemoryAffinity(proximity_domain=domain, base=start, length=end - start, flags=flags)


def case(
    *entries: MemoryAffinity | ProcessorAffinity,
    memory: int = GIB,
    cmdline: str = "movable_node",
    slit: bool = False,
) -> Case:
    cpu = ProcessorAffinity(proximity_domain=0, apic_id=0)
    srat = encode_srat(build_srat((cpu, *entries)))
    return Case(machine=Q35(memory), tables=(srat, *((SLIT,) if slit else ())), cmdline=cmdline)


N0 = mem(0, 0, 512 * MIB)
N1 = mem(1, 512 * MIB, GIB, HOT)
ABOVE = 4 * GIB

IMAGE = 16 * MIB
STRIPES = [mem(page % 2, IMAGE + page * 4096, IMAGE + (page + 1) * 4096) for page in range(123)]
"""Over the kernel image: with them memblock.reserved is as good as full."""
PROCESSORS = tuple(ProcessorAffinity(proximity_domain=100 + i, apic_id=2 + i) for i in range(20))

DIFFERENT = [
    ("v5.10", "v6.1", "reserved", "first_mib_reserved", case(N0, N1)),
    (
        "v5.10",
        "v6.1",
        "blocks",
        "block_zone",
        case(
            N0,
            mem(1, 512 * MIB, 706 * MIB),
            mem(0, 706 * MIB, 708 * MIB),
            mem(1, 708 * MIB, GIB, PLAIN),
            cmdline="",
        ),
    ),
    ("v6.1", "v6.12", "reserved", "trim_bounds", case(N0, N1)),
    (
        "v6.1",
        "v6.12",
        "zone_movable_start",
        "max_pfn_counts_acpi",
        case(N0, mem(1, 512 * MIB, GIB), cmdline="movablecore=512M memmap=1M#0x100400000"),
    ),
    (
        "v6.1",
        "v6.12",
        "reserved",
        "late_reserves_apart",
        case(
            mem(0, MIB + 4096, IMAGE),
            *STRIPES,
            mem(1, STRIPES[-1].base + 4096, 512 * MIB),
            N1,
            slit=True,
        ),
    ),
    ("v6.1", "v6.12", "numa", "coverage", case(N0, mem(1, 513 * MIB, GIB))),
    (
        "v6.1",
        "v6.12",
        "zone_movable_start",
        "hotplug_start",
        case(mem(0, 0, 0x20000064), mem(1, 0x20000064, GIB, HOT)),
    ),
    (
        "v6.1",
        "v6.12",
        "zones",
        "mirror_without_mirror",
        case(mem(0, 0, 2 * GIB), mem(1, ABOVE, ABOVE + GIB), memory=3 * GIB, cmdline="kernelcore=mirror"),
    ),
    (
        "v6.1",
        "v6.12",
        "node_data",
        "nodes_need_pages",
        case(N0, mem(2, 512 * MIB, 512 * MIB + 2048), mem(1, 512 * MIB + 2048, GIB)),
    ),
    (
        "v6.1",
        "v6.12",
        "node_data",
        "unassigned_is_first_node",
        case(N0, mem(1, 512 * MIB, 0x3FF60000, HOT)),
    ),
    (
        "v6.1",
        "v6.12",
        "panic",
        "node_data_failure",
        case(mem(0, 0, 0x3C11000), mem(1, 0x3C11000, GIB, HOT), cmdline="movable_node memmap=15M$1M"),
    ),
    (
        "v6.12",
        "v7.3",
        "zones",
        "mirror_cuts_zones",
        case(
            N0,
            mem(1, 512 * MIB, 768 * MIB),
            mem(1, 768 * MIB, GIB, HOT),
            cmdline="movable_node kernelcore=mirror",
        ),
    ),
    (
        "v6.1",
        "v6.12",
        "panic",
        "offline_node_data",
        case(mem(0, 0, 64 * MIB), *PROCESSORS, mem(2, 64 * MIB, GIB, HOT)),
    ),
    (
        "v6.12",
        "v7.3",
        "zone_movable_start",
        "pageless_movable_dropped",
        case(mem(0, 0, 0x3FFDFC9C), mem(1, 0x3FFDFC9C, GIB, HOT)),
    ),
    ("v6.12", "v7.3", "reserved", "kernel_reserves_marked", case(N0, N1)),
    (
        "v5.10",
        "seed-2013",
        "memory",
        "kernel_exemption",
        case(mem(0, 0, 256 * MIB), mem(0, 256 * MIB, 512 * MIB, HOT), N1),
    ),
    (
        "v6.12",
        "v7.3",
        "panic",
        "memory_map_after_zones",
        case(
            mem(0, 0, 256 * MIB),
            mem(1, 256 * MIB, 2047 * MIB, HOT),
            mem(2, ABOVE, ABOVE + 14 * GIB, HOT),
            memory=16 * GIB,
        ),
    ),
    (
        "v6.12",
        "v7.3",
        "blocks",
        "holes_on_first_node",
        case(mem(0, 0, GIB), mem(1, GIB, 2 * GIB), mem(0, ABOVE, ABOVE + GIB), memory=3 * GIB, cmdline=""),
    ),
    (
        "v5.10",
        "seed-2013",
        "memory",
        "hotplug_marks marks_survive_rejection",
        case(N0, mem(1, 512 * MIB, GIB), mem(1, 512 * MIB, GIB, DISABLED_HOT)),
    ),
    (
        "v5.10",
        "seed-2013",
        "memory",
        "kernel_exemption marks_survive_rejection",
        case(mem(0, 0, 600 * MIB), N1),
    ),
    (
        "v5.10",
        "seed-2013",
        "zone_movable_start",
        "movable_past_node_end",
        case(mem(0, 0, GIB - 3 * MIB), mem(1, GIB - 3 * MIB, GIB, HOT)),
    ),
    ("v5.10", "seed-2013", "node_data", "bottom_up_until_srat", case(N0, N1, slit=True)),
]


@pytest.mark.parametrize(
    ("old", "new", "field", "behaviours", "example"), DIFFERENT, ids=[f"{row[3]}" for row in DIFFERENT]
)
def test_a_difference_names_its_behaviour(
    old: str, new: str, field: str, behaviours: str, example: Case
) -> None:
    found = attribute(example, POLICIES[old], POLICIES[new])
    assert found.comparison.fields[field] is Verdict.DIFFER
    cause = next(cause for cause in found.causes if field in cause.fields)
    assert [switch for switch in cause.switches if switch != BUILD] == behaviours.split()


def test_every_behaviour_in_which_rows_differ_has_an_example() -> None:
    rows = [("v5.10", "v6.1"), ("v6.1", "v6.12"), ("v6.12", "v7.3"), ("v5.10", "seed-2013")]
    differing = {each.field for old, new in rows for each in policy_diff(POLICIES[old], POLICIES[new])}
    # Each row is given its own word for the option, so that the word itself makes no difference.
    assert differing - {"hotplug_option"} == {name for row in DIFFERENT for name in row[3].split()}


def _fuzzed(seed: int) -> list[Case]:
    rng = Random(seed)
    return [mutate(base, rng, rounds=3)[0] for base in draw_cases(seed, 30)]


@pytest.mark.parametrize(("old", "new"), [("v5.10", "v7.3"), ("v6.12", "v6.1"), ("v5.10", "seed-2013")])
def test_every_field_that_differs_has_one_cause(old: str, new: str) -> None:
    known = {BUILD, *BEHAVIOURS}
    for each in _fuzzed(1):
        found = attribute(each, POLICIES[old], POLICIES[new])
        fields = [name for name, verdict in found.comparison.fields.items() if verdict is Verdict.DIFFER]
        assert sorted(name for cause in found.causes for name in cause.fields) == sorted(fields)
        assert all(cause.switches and known.issuperset(cause.switches) for cause in found.causes)
        assert len(list(attributed_findings(each, POLICIES[old], POLICIES[new]))) == len(found.causes)


def test_a_row_does_not_differ_from_itself() -> None:
    for each in _fuzzed(2):
        found = attribute(each, POLICIES["v6.1"], POLICIES["v6.1"])
        assert found.comparison.agrees
        assert found.causes == ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("movable_node", "movablenode"),
        ("quiet movable-node=off mem=1G", "quiet movablenode=off mem=1G"),
        ("movable_nodes xmovable_node", "movable_nodes xmovable_node"),
        ("", ""),
    ],
)
def test_each_row_gets_its_own_word(given: str, expected: str) -> None:
    example = case(N0, N1, cmdline=given)
    assert with_option(example, POLICIES["seed-2013"]).cmdline == expected
    back = with_option(with_option(example, POLICIES["seed-2013"]), POLICIES["v6.1"])
    assert back.cmdline == given.replace("movable-node", "movable_node")
