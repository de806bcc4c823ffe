"""Zone, node and verdict of single memory blocks, as real kernels of each version were seen to have them."""

from __future__ import annotations

import pytest

from acpitk.kernel.boot import predict
from acpitk.kernel.cmdline import parse_cmdline
from acpitk.kernel.hotplug import BlockReason, hot_added
from acpitk.kernel.policy import BUILDS, POLICIES
from acpitk.machine import Q35, Case
from acpitk.outcome import Block
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology


def case(*nodes: str, memory: int = 3 * GIB, cmdline: str = "movable_node") -> Case:
    srat, _ = parse_topology(nodes).tables()
    return Case(machine=Q35(memory), tables=(encode_srat(srat),), cmdline=cmdline)


def block(case: Case, kernel: str, number: int) -> Block:
    blocks = predict(case, POLICIES[kernel]).outcome.blocks or ()
    return next(b for b in blocks if b.start == number * 128 * MIB)


@pytest.mark.parametrize(
    ("kernel", "zone"), [("v5.10", None), ("v6.1", "DMA32"), ("v6.12", "DMA32"), ("v7.3", "DMA32")]
)
def test_a_sample_behind_the_end_of_ram_leaves_a_block_without_zone(kernel: str, zone: str | None) -> None:
    found = block(case("0:mem=0-2G,mem=4G-5G,cpus=0", cmdline="mem=1600M"), kernel, 12)
    assert (found.nid, found.zone, found.removable, found.certain) == (0, zone, False, True)


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
def test_a_piece_of_another_node_between_samples_is_missed_by_5_10_alone(kernel: str) -> None:
    sampled = case("0:mem=0-1028M,mem=1030M-2G,mem=4G-5G,cpus=0", "1:mem=1028M-1030M", cmdline="")
    between = case("0:mem=0-1026M,mem=1027M-2G,mem=4G-5G,cpus=0", "1:mem=1026M-1027M", cmdline="")
    found, missed = block(sampled, kernel, 8), block(between, kernel, 8)
    assert (found.nid, found.zone, found.removable, found.certain) == (None, None, False, True)
    assert (missed.nid, missed.removable) == (None, False)
    assert (missed.zone, missed.certain) == (("DMA32", False) if kernel == "v5.10" else (None, True))


@pytest.mark.parametrize(("kernel", "nid"), [("v5.10", None), ("v6.1", None), ("v6.12", None), ("v7.3", 1)])
def test_a_hole_counts_as_the_first_nodes_where_that_spans_it(kernel: str, nid: int | None) -> None:
    holed = case("0:mem=0-1G,mem=4608M-5G,cpus=0", "1:mem=1G-2G,mem=4G-4608M", cmdline="kernelcore=1G")
    assert block(holed, kernel, 15).nid == nid


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
def test_a_crash_kernel_stays_in_the_plain_part_of_zone_movable(kernel: str) -> None:
    nodes = ("0:mem=0-512M,mem=928M-1G,cpus=0", "1:mem=512M-640M,hotplug,mem=640M-928M")
    without = case(*nodes, memory=GIB)
    with_one = case(*nodes, memory=GIB, cmdline="movable_node crashkernel=128M")
    assert block(without, kernel, 6).reason == BlockReason.MOVABLE
    assert block(with_one, kernel, 6).reason == BlockReason.BOOT_MEMORY
    assert block(with_one, kernel, 4).reason == BlockReason.MOVABLE


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
@pytest.mark.parametrize("cmdline", ["", "movable_node"])
def test_hot_added_memory_goes_where_movable_node_says(kernel: str, cmdline: str) -> None:
    outcome = predict(
        case("0:mem=0-1G,cpus=0", "5:mem=4G-5G,hotplug", memory=GIB, cmdline=cmdline), POLICIES[kernel]
    ).outcome
    for domain, nid in ((5, 1), (7, 0)):
        added = hot_added(outcome, 4 * GIB, GIB, domain, parse_cmdline(cmdline), BUILDS[kernel])
        assert [b.start for b in added] == list(range(4 * GIB, 5 * GIB, 128 * MIB))
        assert {(b.nid, b.zone, b.removable) for b in added} == {
            (nid, "Movable" if cmdline else "Normal", bool(cmdline))
        }
        assert {b.online for b in added} == {kernel in ("v6.12", "v7.3")}
