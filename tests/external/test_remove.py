"""Real kernels that really offline every memory block, against the model's verdict for each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.checks.differential import Verdict, compare
from acpitk.errors import ToolError
from acpitk.images import predict_image
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.qemu.image import find_kernel
from acpitk.qemu.remove import remove
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology

pytestmark = [pytest.mark.qemu, pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]


def case(*nodes: str, memory: int = 3 * GIB, cmdline: str = "movable_node") -> Case:
    srat, _ = parse_topology(nodes).tables()
    return Case(machine=Q35(memory), tables=(encode_srat(srat),), cmdline=cmdline)


CASES = {
    "hot node": case("0:mem=0-2G,cpus=0", "1:mem=4G-5G,hotplug"),
    "plain memory above hot": case("0:mem=0-2G,cpus=0", "1:mem=4G-4608M,hotplug,mem=4608M-5G"),
    "hot start inside a block": case("0:mem=0-2G,mem=4G-4160M,cpus=0", "1:mem=4160M-5G,hotplug"),
    "kernel node": case("0:mem=0-512M,cpus=0", "1:mem=512M-1G,hotplug", memory=GIB),
    "movablecore": case("0:mem=0-2G,cpus=0", "1:mem=4G-5G", cmdline="movablecore=512M"),
    "crash kernel": case(
        "0:mem=0-512M,mem=928M-1G,cpus=0",
        "1:mem=512M-640M,hotplug,mem=640M-928M",
        memory=GIB,
        cmdline="movable_node crashkernel=128M",
    ),
    "hole over the first node": case(
        "0:mem=0-1G,mem=4608M-5G,cpus=0", "1:mem=1G-2G,mem=4G-4608M", cmdline="kernelcore=1G"
    ),
}


@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
@pytest.mark.parametrize("name", CASES)
def test_every_block_ends_as_predicted(
    name: str, kernel: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    result = remove(CASES[name], find_kernel(kernel), qemu=qemu_path)
    predicted = predict_image(result.case, find_kernel(kernel), POLICIES[kernel])
    comparison = compare(predicted.outcome, result.outcome)
    assert [str(difference) for difference in comparison.differences] == []
    assert comparison.fields["blocks"] is Verdict.AGREE
    assert comparison.fields["zones"] is Verdict.AGREE
    assert comparison.fields["distances"] is Verdict.AGREE
    assert result.deadly is None
    assert all(block.certain for block in result.outcome.blocks or ())


@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
def test_a_hot_node_goes_and_what_booted_there_stays(
    kernel: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    result = remove(CASES["plain memory above hot"], find_kernel(kernel), qemu=qemu_path)
    blocks = {block.start // (128 * MIB): block for block in result.outcome.blocks or ()}
    assert {number for number, block in blocks.items() if block.zone == "Movable"} == set(range(32, 40))
    assert {n for n in range(32, 40) if not blocks[n].removable} == {39}
    assert blocks[39].reason == "EBUSY: failure to isolate range"
    assert blocks[0].reason.startswith("EINVAL")


def test_a_boot_to_userspace_can_be_cancelled(qemu_path: Path, kernel_image: Callable[[str], Path]) -> None:
    kernel_image("v6.1")
    stop = threading.Event()
    stop.set()
    with pytest.raises(ToolError, match="cancelled"):
        remove(CASES["kernel node"], find_kernel("v6.1"), qemu=qemu_path, stop=stop)


def test_a_kernel_that_never_reaches_userspace_is_an_outcome(
    qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image("v6.1")
    broken = case("0:mem=1M-2G,mem=4G-5G,cpus=0")  # RAM below 1 MiB without a node: Linux dies of it
    result = remove(broken, find_kernel("v6.1"), qemu=qemu_path)
    assert result.outcome.panic == predict_image(
        result.case, find_kernel("v6.1"), POLICIES["v6.1"]
    ).outcome.panic or (result.outcome.panic or "").startswith("BUG")
    assert result.outcome.blocks is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_guest_too(
    number: signal.Signals,
    tmp_path: Path,
    qemu_path: Path,
    kernel_image: Callable[[str], Path],
    all_ended: Callable[[int], bool],
) -> None:
    kernel_image("v6.1")
    (tmp_path / "case.json").write_text(json.dumps(CASES["hot node"].to_json()))
    process = subprocess.Popen(
        [sys.executable, "-m", "acpitk", "boot", "case.json", "--remove"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    while not (guests := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert guests
    assert all(all_ended(int(guest)) for guest in guests)
