"""The seven patches of "Arrange hotpluggable memory as ZONE_MOVABLE" (2013): without one, another outcome."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from acpitk.kernel.boot import predict
from acpitk.kernel.policy import BUILDS, POLICIES, HotplugMarks, KernelExemption
from acpitk.kernel.prediction import Prediction
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB

SEED = POLICIES["seed-2013"]


def mem(pxm: int, start: int, end: int, flags: int) -> bytes:
    return struct.pack("<BBIHQQIIQ", 1, 40, pxm, 0, start, end - start, 0, flags, 0)


def boot(*entries: bytes, cmdline: str = "movablenode", **altered: Any) -> Prediction:
    body = struct.pack("<IQ", 1, 0) + b"".join(entries)
    header = (b"SRAT", 36 + len(body), 3, 0, b"TEST  ", b"TEST    ", 1, b"TEST", 1)
    table = struct.pack("<4sIBB6s8sI4sI", *header) + body
    case = Case(machine=Q35(GIB), tables=(table,), cmdline=cmdline)
    return predict(case, replace(SEED, **altered), BUILDS[SEED.name])


NODE_0 = mem(0, 0, 512 * MIB, 1)
HOT_1 = mem(1, 512 * MIB, GIB, 3)
ALL_HOT_0 = mem(0, 0, 512 * MIB, 3)


def node_data(prediction: Prediction) -> dict[int, int]:
    return {node.nid: node.on_nid for node in prediction.outcome.node_data or ()}


def movable(prediction: Prediction) -> dict[int, int]:
    return dict(prediction.outcome.zone_movable_start or {})


def test_1_node_data_from_another_node() -> None:
    assert node_data(boot(NODE_0, HOT_1)) == {0: 0, 1: 0}
    assert node_data(boot(NODE_0, HOT_1, node_data_elsewhere=False)) == {0: 0}


def test_2_ranges_the_kernel_resides_in_are_skipped() -> None:
    assert movable(boot(ALL_HOT_0, HOT_1)) == {1: 512 * MIB}
    without = boot(ALL_HOT_0, HOT_1, kernel_exemption=KernelExemption.NONE)
    assert movable(without) != {1: 512 * MIB} or without.outcome.panic


@pytest.mark.parametrize(
    "altered",
    [
        pytest.param({"regions_have_flags": False}, id="3 flags in memblock regions"),
        pytest.param({"hotplug_marks": HotplugMarks.NEVER}, id="4 hotpluggable ranges marked"),
    ],
)
def test_3_and_4_marks(altered: dict[str, Any]) -> None:
    assert movable(boot(NODE_0, HOT_1)) == {1: 512 * MIB}
    assert movable(boot(NODE_0, HOT_1, **altered)) == {}


def test_5_the_allocator_skips_marked_ranges() -> None:
    assert node_data(boot(NODE_0, HOT_1))[1] == 0
    assert node_data(boot(NODE_0, HOT_1, allocator_skips_hotplug=False))[1] == 1


def test_6_the_boot_option() -> None:
    assert movable(boot(NODE_0, HOT_1, cmdline="")) == {}
    assert movable(boot(NODE_0, HOT_1, cmdline="movable_node")) == {}
    assert movable(boot(NODE_0, HOT_1, cmdline="movable_node", hotplug_option="movable_node")) != {}


def test_7_priority_over_kernelcore() -> None:
    cmdline = "movablenode movablecore=256M"
    assert movable(boot(NODE_0, HOT_1, cmdline=cmdline)) == {1: 512 * MIB}
    without = movable(boot(NODE_0, HOT_1, cmdline=cmdline, movable_node_first=False))
    assert without != {1: 512 * MIB}


def test_marks_survive_a_refused_srat() -> None:
    entries = (NODE_0, HOT_1, mem(0, 768 * MIB, 800 * MIB, 1))
    assert movable(boot(*entries)) == {0: 512 * MIB}
    assert movable(boot(*entries, marks_survive_rejection=False)) == {}


def test_a_disabled_hot_entry_is_marked() -> None:
    assert movable(boot(NODE_0, mem(1, 512 * MIB, GIB, 1), mem(2, 768 * MIB, GIB, 2))) == {1: 768 * MIB}


def test_an_untouched_entry_of_the_kernels_node_stays_movable() -> None:
    kernel_node = (mem(0, 0, 256 * MIB, 1), mem(0, 256 * MIB, 512 * MIB, 3), mem(1, 512 * MIB, GIB, 1))
    assert movable(boot(*kernel_node)) == {0: 256 * MIB}
    merged = Case(machine=Q35(GIB), cmdline="movable_node")
    assert not predict(merged, POLICIES["v6.1"]).outcome.zone_movable_start
