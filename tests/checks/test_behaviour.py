"""Behaviours: the same for cases treated alike, another for another decision."""

from __future__ import annotations

from acpitk.checks.behaviour import behaviour
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology


def named(*nodes: str, memory: int = GIB, initrd: int = 0, cmdline: str = "movable_node") -> frozenset[str]:
    srat, _ = parse_topology(nodes).tables()
    tables = (encode_srat(srat),)
    case = Case(machine=Q35(memory, initrd), tables=tables, cmdline=cmdline)
    return behaviour(predict(case, POLICIES["v6.1"]))


ORDINARY = ("0:mem=0-512M", "1:mem=512M-1G,hotplug")


def test_sizes_and_addresses_do_not_matter() -> None:
    assert named(*ORDINARY) == named("0:mem=0-640M", "1:mem=640M-1G,hotplug")


def test_decisions_do() -> None:
    others = {
        named(*ORDINARY, cmdline=""),
        named(*ORDINARY, initrd=4 * MIB),
        named("0:mem=0-512M", "1:mem=512M-1G"),
        named("0:mem=0-512M", "1:mem=500M-1G,hotplug"),
        named("0:mem=0-512M,hotplug", "1:mem=512M-1G,hotplug"),
    }
    assert len(others | {named(*ORDINARY)}) == 6
