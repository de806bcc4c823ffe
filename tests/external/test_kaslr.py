"""Kernels placed at random: the boot stub keeps out of hotpluggable memory where it can."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.errors import ToolError
from acpitk.machine import Q35, Case
from acpitk.qemu.image import KernelImage, find_kernel
from acpitk.qemu.kaslr import kaslr
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology

pytestmark = [pytest.mark.qemu, pytest.mark.kernel]


@pytest.fixture(params=["v6.1", "v7.3"])
def image(
    request: pytest.FixtureRequest, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> KernelImage:
    kernel_image(request.param)
    found = find_kernel(request.param)
    try:
        assert found.vmlinuz.is_file()
    except ToolError as error:
        if "kernel" in os.environ.get("ACPITK_REQUIRE", "").split(","):
            raise
        pytest.skip(str(error))
    return found


def case(*nodes: str) -> Case:
    srat, _ = parse_topology(nodes).tables()
    return Case(machine=Q35(3 * GIB), tables=(encode_srat(srat),), cmdline="movable_node")


def test_the_kernel_keeps_out_of_hotpluggable_memory(image: KernelImage) -> None:
    landings = kaslr(case("0:mem=0-2G,cpus=0", "1:mem=4G-5G,hotplug"), image, 3)
    assert len(landings) == 3
    for landing in landings:
        assert landing.image is not None
        assert landing.image.end - landing.image.start > 32 * MIB
        assert (landing.nid, landing.lost) == (0, ())
        assert landing.outcome.zone_movable_start == {1: 4 * GIB}
    assert len({landing.image for landing in landings}) > 1


def test_where_all_memory_is_hotpluggable_the_node_it_lands_on_loses_that(image: KernelImage) -> None:
    for landing in kaslr(case("0:mem=0-2G,hotplug,cpus=0", "1:mem=4G-5G,hotplug"), image, 3):
        assert landing.nid in landing.lost
        assert 0 in landing.lost  # the ACPI tables are there
        assert landing.outcome.zone_movable_start == ({1: 4 * GIB} if landing.nid == 0 else {})
