"""`acpitk diff` on real kernels: the model agrees in every field and every boot-time allocation."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import run
from acpitk.corpus import StoredCase, save
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import Entry, MemoryAffinity, MemoryFlags, ProcessorAffinity, build_srat, encode_srat

pytestmark = [pytest.mark.qemu, pytest.mark.kernel("v6.1")]

PLAIN, HOT = MemoryFlags.ENABLED, MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qemu_path: Path) -> Path:
    """An empty working directory, and QEMU."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> Any:
    assert run(("diff", *arguments, "--json")) == status
    return json.loads(capsys.readouterr().out)


def _mem(domain: int, start: int, end: int, flags: MemoryFlags) -> MemoryAffinity:
    return MemoryAffinity(proximity_domain=domain, base=start, length=end - start, flags=flags)


def test_ten_fuzzed_cases_agree_with_the_model(
    kernel_image: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kernel in ("v6.1", "v7.3"):
        kernel_image(kernel)
    document = _json(capsys, 0, "model", "v6.1,v7.3", "--campaign", "10", "--seed", "5")
    assert document["disagreements"] == []
    assert (document["start"], document["next"]) == (0, 10)
    for counts in document["kernels"].values():
        assert counts["boots"] == sum(counts["ended"].values()) >= 8
        assert counts["allocations"]["agreed"] == counts["allocations"]["requests"] > 100
        assert all(verdicts["differ"] == 0 for verdicts in counts["fields"].values())
        assert counts["fields"]["memory"]["agree"] > 0
        assert counts["fields"]["zones"]["agree"] > 0


def test_a_campaign_is_gone_on_with(
    kernel_image: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel_image("v6.1")
    whole = _json(capsys, 0, "model", "v6.1", "--campaign", "4", "--seed", "6", "--jobs", "2")
    parts = [
        _json(capsys, 0, "model", "v6.1", "--campaign", "2", "--seed", "6", "--start", at, "--jobs", "1")
        for at in ("0", "2")
    ]
    total, first, second = (each["kernels"]["v6.1"] for each in (whole, *parts))
    assert total["boots"] == first["boots"] + second["boots"]
    requests = [each["allocations"]["requests"] for each in (total, first, second)]
    assert requests[0] == requests[1] + requests[2]
    assert parts[1]["next"] == whole["next"]


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v7.3"])
@pytest.mark.parametrize("which", ["nothing plain for the distance table", "a node without memory"])
def test_allocations_that_are_hard_to_follow(
    which: str,
    kernel: str,
    here: Path,
    kernel_image: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kernel_image(kernel)
    cpus = [ProcessorAffinity(proximity_domain=domain, apic_id=domain) for domain in (0, 1)]
    if which.startswith("nothing"):
        entries: tuple[Entry, ...] = (cpus[0], _mem(0, 0, 512 * MIB, HOT), _mem(1, 512 * MIB, GIB, HOT))
    else:
        entries = (*cpus, _mem(0, 0, GIB, PLAIN))
    slit = encode_slit(build_slit([[10, 20], [20, 10]]))
    case = Case(machine=Q35(GIB), tables=(encode_srat(build_srat(entries)), slit), cmdline="movable_node")
    path = save(here, StoredCase(case=case))
    document = _json(capsys, 0, "model", kernel, str(path))
    assert document["kernels"][kernel]["boots"] == 1
    assert document["kernels"][kernel]["allocations"]["requests"] > 10


def test_both_kernels_are_booted_and_compared(
    here: Path, kernel_image: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kernel in ("v6.1", "v7.3"):
        kernel_image(kernel)
    entries = (_mem(0, 0, 0x20000064, PLAIN), _mem(1, 0x20000064, GIB, HOT))
    tables = (encode_srat(build_srat(entries)),)
    path = save(here, StoredCase(case=Case(machine=Q35(GIB), tables=tables, cmdline="movable_node")))
    document = _json(capsys, 1, "v6.1", "v7.3", str(path), "--real")
    assert document["fields"]["zone_movable_start"] == "differ"
    real = document["real"]
    assert real["kernels"]["fields"]["zone_movable_start"] == "differ"
    assert real["model_v6.1"]["differences"] == real["model_v7.3"]["differences"] == []


def test_a_kernel_the_model_is_wrong_about_is_found_and_minimised(
    here: Path, kernel_image: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel file under a name that says it is 5.10: its boots are compared with the wrong row."""
    image = here / "linux"
    image.write_bytes(
        kernel_image("v6.1").read_bytes().replace(b"Linux version 6.1.", b"Linux version 5.10", 1)
    )
    document = _json(capsys, 1, "model", str(image), "--campaign", "1", "--seed", "5", "--jobs", "1")
    found = document["disagreements"]
    assert found
    assert all(each["minimised"] for each in found)
    (kernel,) = document["kernels"]
    assert document["kernels"][kernel]["disagreed"] == 1
    assert sorted(str(path) for path in Path("differences").iterdir()) == sorted(
        {each["case"] for each in found}
    )


def test_an_interrupt_keeps_what_was_done(here: Path, kernel_image: Callable[[str], Path]) -> None:
    kernel_image("v6.1")
    arguments = ("diff", "model", "v6.1", "--time-limit", "10m", "--seed", "5", "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "acpitk", *arguments],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(15)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    document = json.loads(out)
    assert document["next"] > 0
    assert document["kernels"]["v6.1"]["boots"] > 0
