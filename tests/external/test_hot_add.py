"""Memory plugged into a running guest, against the model: its node, its zone, and whether it can go again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk.checks.differential import Verdict, compare
from acpitk.images import build_for, predict_image
from acpitk.kernel.cmdline import parse_cmdline
from acpitk.kernel.hotplug import hot_added
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.qemu.hot_add import CHANNEL, HotAdd, HotAddResult, device_address, hot_add
from acpitk.qemu.image import find_kernel
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology

pytestmark = [pytest.mark.qemu, pytest.mark.kernel]
SRAT, _ = parse_topology(["0:mem=0-1G,cpus=0", "2:mem=5G-6G,hotplug", "1:mem=4G-5G,hotplug"]).tables()
"""Domain 2 comes first, so it is node 1: whoever takes a domain for a node is found out."""


def plugged(kernel: str, cmdline: str, device: HotAdd, qemu: Path) -> HotAddResult:
    case = Case(machine=Q35(GIB), tables=(encode_srat(SRAT),), cmdline=cmdline)
    return hot_add(case, find_kernel(kernel), device, qemu=qemu)


@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
@pytest.mark.parametrize("cmdline", ["movable_node", ""])
def test_node_zone_and_state_as_predicted(
    kernel: str, cmdline: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    device = HotAdd(size=256 * MIB)
    result = plugged(kernel, cmdline, device, qemu_path)
    at, domain = device_address(result.case), device.domain_in(result.case, device_address(result.case))
    image, row = find_kernel(kernel), POLICIES[kernel]
    before = predict_image(result.case, image, row).outcome
    added = hot_added(before, at, device.size, domain, parse_cmdline(cmdline), build_for(image, row))
    expected = replace(before, reserved=None, blocks=(*(before.blocks or ()), *added))
    comparison = compare(expected, result.outcome)
    assert [str(difference) for difference in comparison.differences] == []
    assert comparison.fields["blocks"] is Verdict.AGREE
    assert result.outcome.channel == CHANNEL
    assert (domain, {block.nid for block in added}) == (1, {2})
    assert {block.zone for block in result.added or ()} == {"Movable" if cmdline else "Normal"}
    if cmdline:
        assert all(block.removable for block in result.added or ())
        assert result.unplugged


@pytest.mark.parametrize(("kernel", "offered"), [("v6.1", "Movable Normal"), ("v7.3", "Movable")])
def test_a_domain_the_srat_does_not_name_is_the_first_node(
    kernel: str, offered: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    result = plugged(kernel, "movable_node", HotAdd(size=128 * MIB, domain=3), qemu_path)
    assert [(b.start, b.nid, b.zone) for b in result.added or ()] == [(4 * GIB, 0, "Movable")]
    assert set(result.valid_zones.values()) == {offered}
    assert result.unplugged
