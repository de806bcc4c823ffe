"""Behaviours: the same for cases treated alike, another for another decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from acpitk.checks.behaviour import behaviour, console_behaviour
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


LOGS = Path(__file__).resolve().parents[1] / "klog"
KERNELS = ("v5.10", "v6.1", "v6.12", "v7.3")


def logged(path: str, *, kernel: str = "k") -> frozenset[str]:
    return console_behaviour((LOGS / path).read_text(), kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_addresses_on_a_console_do_not_matter(kernel: str) -> None:
    console = (LOGS / "logs" / "accepted" / f"{kernel}.log").read_text()
    moved = console.replace("0x000000003", "0x00000000a").replace("0x000000002", "0x000000009")
    assert moved != console
    assert console_behaviour(moved, kernel="k") == console_behaviour(console, kernel="k")


@pytest.mark.parametrize("kernel", KERNELS)
def test_decisions_on_a_console_do(kernel: str) -> None:
    logs = sorted(LOGS.glob(f"logs/*/{kernel}.log"))
    assert len({logged(str(log.relative_to(LOGS))) for log in logs}) == len(logs) > 1


def test_a_console_names_its_kernel_and_little_of_debugging() -> None:
    for kernel in KERNELS:
        named = logged(f"logs/accepted/{kernel}.log", kernel=kernel)
        assert all(name.startswith(f"{kernel} ") for name in named)
        assert 30 < len(named) < 200
        assert not any("memblock_reserve" in name or "command line" in name for name in named)


def test_the_top_of_a_stack_is_a_decision() -> None:
    stacks = {name for name in logged("crashes/starved-v6.12.log") if name.startswith("k stack: ")}
    assert stacks
    assert all(" < " in name and "+0x" not in name for name in stacks)
