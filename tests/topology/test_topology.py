"""Topologies in words: what they say is what the tables say, and every error names the word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import UsageError
from acpitk.ranges import GIB, MIB, parse_range
from acpitk.tables.header import checksum_valid
from acpitk.tables.slit import encode_slit
from acpitk.tables.srat import (
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    X2ApicAffinity,
    decode_srat,
    encode_srat,
)
from acpitk.topology import parse_topology, set_hotplug, topology_from_mapping

TWO_NODES = ("0:mem=0-512M,cpus=0-1", "1:mem=512M-1G,hotplug,mem=2G-3G,nv,sp")


def test_entries_say_what_the_words_say() -> None:
    srat, slit = parse_topology(TWO_NODES, ["0,1=21"]).tables()
    enabled = MemoryFlags.ENABLED
    assert srat.entries == (
        ProcessorAffinity(proximity_domain=0, apic_id=0),
        ProcessorAffinity(proximity_domain=0, apic_id=1),
        MemoryAffinity(proximity_domain=0, base=0, length=512 * MIB),
        MemoryAffinity(
            proximity_domain=1, base=512 * MIB, length=512 * MIB, flags=enabled | MemoryFlags.HOT_PLUGGABLE
        ),
        MemoryAffinity(
            proximity_domain=1,
            base=2 * GIB,
            length=GIB,
            flags=enabled | MemoryFlags.NON_VOLATILE | MemoryFlags.SPECIFIC_PURPOSE,
        ),
    )
    assert slit is not None
    assert slit.entries == bytes((10, 21, 21, 10))
    assert checksum_valid(encode_srat(srat))
    assert checksum_valid(encode_slit(slit))


def test_apic_0_belongs_to_the_first_node_by_default() -> None:
    srat, _ = parse_topology(["3:mem=0-1G", "1:mem=1G-2G"]).tables()
    assert srat.entries[0] == ProcessorAffinity(proximity_domain=3, apic_id=0)


def test_apic_ids_from_255_are_x2apic() -> None:
    srat, _ = parse_topology(["0:cpus=254-255"]).tables()
    assert srat.entries == (
        ProcessorAffinity(proximity_domain=0, apic_id=254),
        X2ApicAffinity(proximity_domain=0, x2apic_id=255),
    )


def test_disabled_memory_keeps_its_other_flags() -> None:
    srat, _ = parse_topology(["0:mem=0-1G,disabled,hotplug"]).tables()
    assert srat.memory_affinities()[0].flags == MemoryFlags.HOT_PLUGGABLE


def test_a_node_written_twice_gathers_both() -> None:
    assert (
        parse_topology(["0:mem=0-1G", "0:mem=1G-2G,cpus=4"]).nodes
        == parse_topology(["0:mem=0-1G,mem=1G-2G,cpus=4"]).nodes
    )


def test_distances_hold_in_both_directions_unless_both_are_given() -> None:
    nodes = ("0:mem=0-1G", "1:mem=1G-2G", "2:mem=2G-3G")
    _, slit = parse_topology(nodes, ["0,1=15", "1,2=30", "2,1=31"]).tables()
    assert slit is not None
    assert slit.entries == bytes((10, 15, 20, 15, 10, 30, 20, 31, 10))


def test_a_domain_too_large_for_a_slit_leaves_it_out() -> None:
    topology = parse_topology(["0:mem=0-1G", "4294967295:mem=1G-2G"])
    assert topology.tables()[1] is None


def test_a_document_says_the_same_as_words() -> None:
    document = {
        "nodes": {0: {"mem": "0-512M", "cpus": "0-1"}, 1: {"mem": ["512M-1G,hotplug", "2G-3G,nv,sp"]}},
        "distances": {"0,1": 21},
    }
    assert topology_from_mapping(document, source="t.yaml") == parse_topology(TWO_NODES, ["0,1=21"])


@pytest.mark.parametrize(
    ("nodes", "distances", "named"),
    [
        ([], [], "no nodes"),
        (["0"], [], "node '0'"),
        (["x:mem=0-1G"], [], "'x'"),
        (["4294967296:mem=0-1G"], [], "'4294967296'"),
        (["0:mem=1G"], [], "'1G'"),
        (["0:mem=2G-1G"], [], "0x80000000"),
        (["0:mem=0-0x10000000000000000"], [], "64 bits"),
        (["0:mem=0-1G,hotplugged"], [], "'hotplugged'"),
        (["0:hotplug,mem=0-1G"], [], "must follow"),
        (["0:memory=0-1G"], [], "'memory=0-1G'"),
        (["0:cpus=3-1"], [], "cpus=3-1"),
        (["0:cpus=0-4294967295"], [], "cpus=0-4294967295"),
        (["0:cpus=a"], [], "'a'"),
        (["0:mem=0-1G"], ["0=21"], "distance '0=21'"),
        (["0:mem=0-1G"], ["0,1=21"], "node 1"),
        (["0:mem=0-1G", "1:mem=1G-2G"], ["0,1=256"], "'256'"),
        (["0:mem=0-1G", "300:mem=1G-2G"], ["0,300=20"], "domain 300"),
    ],
)
def test_errors_name_the_word(nodes: list[str], distances: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace("(", r"\(")):
        parse_topology(nodes, distances).tables()


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (None, "t.yaml: expected a mapping"),
        ([], "t.yaml: expected a mapping"),
        ({}, "t.yaml: nodes: missing"),
        ({"nodes": []}, "t.yaml: nodes: expected"),
        ({"nodes": {0: {}}, "distance": {}}, "t.yaml: distance: unknown key"),
        ({"nodes": {0: {"memory": []}}}, "t.yaml: nodes.0: memory: unknown key"),
        ({"nodes": {"a": {}}}, "t.yaml: nodes.a: proximity domain 'a'"),
        ({"nodes": {0: {"mem": ["0-1G", "1G"]}}}, r"t.yaml: nodes.0.mem\[1\]: not a range"),
        ({"nodes": {0: {"mem": ["0-1G,warm"]}}}, r"nodes.0.mem\[0\]: 'warm'"),
        ({"nodes": {0: {"cpus": {}}}}, "nodes.0.cpus"),
        ({"nodes": {0: {"mem": "0-1G"}}, "distances": {"0": 10}}, "distances.0"),
    ],
)
def test_document_errors_name_the_key(document: object, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        topology_from_mapping(document, source="t.yaml")


def test_hotplug_on_a_range_splits_the_entry_at_its_bounds() -> None:
    srat, _ = parse_topology(["0:mem=0-16G"]).tables()
    changed = set_hotplug(srat, "4G-8G", hotplug=True).memory_affinities()
    assert [(e.base, e.length, bool(e.flags & MemoryFlags.HOT_PLUGGABLE)) for e in changed] == [
        (0, 4 * GIB, False),
        (4 * GIB, 4 * GIB, True),
        (8 * GIB, 8 * GIB, False),
    ]


@pytest.mark.parametrize(
    ("selector", "hotplug"),
    [("all", [True, True]), ("all-but-first", [False, True]), ("node=7", [True, False])],
)
def test_hotplug_selectors(selector: str, hotplug: list[bool]) -> None:
    srat, _ = parse_topology(["7:mem=0-1G", "2:mem=1G-2G,mem=2G-2G,mem=3G-4G,disabled"]).tables()
    changed = set_hotplug(srat, selector, hotplug=True).memory_affinities()
    got = [bool(e.flags & MemoryFlags.HOT_PLUGGABLE) for e in changed]
    assert got == [*hotplug, False, False], "empty and disabled entries stay as they are"


@pytest.mark.parametrize("selector", ["node=5", "8G-9G", "nonsense", "node=x", ""])
def test_a_selector_that_names_nothing_is_an_error(selector: str) -> None:
    srat, _ = parse_topology(["0:mem=0-1G"]).tables()
    with pytest.raises(UsageError, match="hotplug"):
        set_hotplug(srat, selector, hotplug=True)


ranges = st.tuples(st.integers(0, 64), st.integers(0, 64)).map(sorted).map(lambda p: f"{p[0]}G-{p[1]}G")


@given(memory=st.lists(ranges, min_size=1, max_size=4), selector=st.one_of(st.just("all"), ranges))
def test_hotplug_keeps_every_byte_of_memory_and_is_undone(memory: list[str], selector: str) -> None:
    srat, _ = parse_topology([f"{i}:mem={m}" for i, m in enumerate(memory)]).tables()
    try:
        marked = set_hotplug(srat, selector, hotplug=True)
    except UsageError:
        return
    sizes = [sum(e.length for e in t.memory_affinities()) for t in (srat, marked)]
    assert sizes[0] == sizes[1]
    cleared = set_hotplug(marked, "all", hotplug=False)
    assert not any(e.flags & MemoryFlags.HOT_PLUGGABLE for e in cleared.memory_affinities())


@given(memory=st.lists(ranges, max_size=4), revision=st.sampled_from([1, 2, 3]))
def test_tables_survive_the_codec(memory: list[str], revision: int) -> None:
    topology = parse_topology(["0:", *(f"{i}:mem={m}" for i, m in enumerate(memory))])
    srat, _ = topology.tables(revision=revision)
    assert decode_srat(encode_srat(srat)) == srat
    ranges_in = [parse_range(m) for m in memory]
    assert [(e.base, e.length) for e in srat.memory_affinities()] == [(r.start, r.size) for r in ranges_in]
