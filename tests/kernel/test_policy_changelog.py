"""Behaviours, their sources, and what lies between two rows."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from acpitk.errors import UsageError
from acpitk.kernel.policy import BEHAVIOURS, POLICIES, KernelPolicy, nearest_policy, policy_diff

_IN_KERNEL = re.compile(r"\w+\(\), (?:arch/x86|drivers|mm)/[\w/]+\.c")
_IN_SERIES = re.compile(r"(?:\w+\(\), )?patch \d/7 of the set.*|no patch of the set")


def test_every_behaviour_is_documented() -> None:
    assert set(BEHAVIOURS) == {each.name for each in fields(KernelPolicy)} - {"name", "source"}
    assert len({each.title for each in BEHAVIOURS.values()}) == len(BEHAVIOURS)


@pytest.mark.parametrize("row", POLICIES)
@pytest.mark.parametrize("name", BEHAVIOURS)
def test_every_value_has_a_source(name: str, row: str) -> None:
    place, read_in = BEHAVIOURS[name].source(row)
    assert read_in in (row, "v5.10") if row == "seed-2013" else read_in == row
    assert (_IN_SERIES if read_in == "seed-2013" else _IN_KERNEL).fullmatch(place), place


def test_the_changelog_of_five_years() -> None:
    changes = {change.field: change for change in policy_diff(POLICIES["v5.10"], POLICIES["v7.3"])}
    expected = {
        *("trim_bounds", "coverage", "hotplug_start", "mirror_without_mirror", "mirror_cuts_zones"),
        *("node_data_failure", "first_mib_reserved", "kernel_reserves_marked", "nodes_need_pages"),
        *("unassigned_is_first_node", "offline_node_data", "pageless_movable_dropped"),
        "max_pfn_counts_acpi",
        *("memory_map_after_zones", "block_zone", "holes_on_first_node"),
    }
    assert set(changes) == expected
    assert str(changes["first_mib_reserved"]) == (
        "all of the first MiB is reserved before the SRAT is parsed: no -> yes  "
        "trim_low_memory_range(), arch/x86/kernel/setup.c (5.10) -> "
        "reserve_real_mode(), arch/x86/realmode/init.c (7.3)"
    )


def test_a_line_reads_as_a_developer_would_say_it() -> None:
    lines = [str(change) for change in policy_diff(POLICIES["v6.1"], POLICIES["v6.12"])]
    assert (
        "ZONE_MOVABLE start rounding: PFN_DOWN -> PFN_UP  "
        "find_zone_movable_pfns_for_nodes(), mm/page_alloc.c (6.1) -> mm/mm_init.c (6.12)"
    ) in lines
    marked = [str(change) for change in policy_diff(POLICIES["v6.12"], POLICIES["v7.3"])]
    assert any(line.endswith("memblock_alloc_range_nid(), mm/memblock.c (6.12, 7.3)") for line in marked)


@pytest.mark.parametrize("old", POLICIES)
@pytest.mark.parametrize("new", POLICIES)
def test_a_changelog_reads_backwards(old: str, new: str) -> None:
    forth, back = (policy_diff(POLICIES[a], POLICIES[b]) for a, b in ((old, new), (new, old)))
    assert [(c.field, c.before, c.after) for c in forth] == [(c.field, c.after, c.before) for c in back]
    assert bool(forth) == (old != new)


@pytest.mark.parametrize(
    ("version", "row"),
    [
        ("v6.1", "v6.1"),
        ("seed-2013", "seed-2013"),
        ("6.1", "v6.1"),
        ("5.15.3-generic", "v5.10"),
        ("v6.6.30", "v6.1"),
        ("6.1.0-56-cloud-amd64", "v6.1"),
        ("6.11", "v6.1"),
        ("6.12-rc1", "v6.12"),
        ("10.0", "v7.3"),
    ],
)
def test_the_nearest_row_at_or_below(version: str, row: str) -> None:
    assert nearest_policy(version).name == row


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ("4.19", "older than the oldest row"),
        ("5.9.16", "older"),
        ("linux", "no kernel version"),
        ("6", "6.6"),
    ],
)
def test_a_version_without_a_row_is_refused(version: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        nearest_policy(version)
