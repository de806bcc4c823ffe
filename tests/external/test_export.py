"""`acpitk replay --export`: the directory boots by itself and says what a maintainer needs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.cli import run
from acpitk.corpus import load
from acpitk.machine import Case
from acpitk.qemu.image import find_kernel

CORPUS = Path(__file__).resolve().parents[2] / "corpus"


def stored(slug: str) -> Path:
    return next(CORPUS.glob(f"{slug}-*.json"))


@pytest.mark.qemu
@pytest.mark.kernel
def test_a_crash_is_written_down(
    tmp_path: Path,
    qemu_path: Path,
    kernel_image: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kernel_image("v6.1")
    out = tmp_path / "report"
    path = stored("top-page-without-node")
    assert run(("replay", str(path), "--export", str(out), "--json")) == 1
    document = json.loads(capsys.readouterr().out)
    assert "v6.1" in document["affected"]
    case: Case = load(path).case
    assert (out / "srat.bin").read_bytes() == case.table(b"SRAT")
    assert load(out / "case.json").case == case
    assert {"srat.asl", "boot.sh", "prediction.json", "console-v6.1.log"} <= {
        file.name for file in out.iterdir()
    }
    text = (out / "REPORT.md").read_text()
    for words in ("BOOT-OOPS:null pointer dereference in memmap_init", "free_area_init()", "## Kernels"):
        assert words in text
    argv = ["timeout", "60", out / "boot.sh", find_kernel("v6.1").path]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as guest:
        assert guest.stdout is not None
        assert any("BUG: kernel NULL pointer dereference" in line for line in guest.stdout)
        guest.terminate()  # a kernel that dies this early halts


@pytest.mark.qemu
def test_a_directory_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("keep")
    path = stored("wrapped-hot-range")
    assert run(("replay", str(path), "--export", str(tmp_path))) == 2
    assert "not empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
