"""The golden consoles are still what the kernels print: every recorded case, booted again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk.machine import case_from_json
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import boot

LOGS = Path(__file__).resolve().parent.parent / "klog" / "logs"


@pytest.mark.qemu
@pytest.mark.kernel
@pytest.mark.parametrize("path", sorted(LOGS.glob("*/v*.json")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_recorded_case_boots_the_same(
    path: Path, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(path.stem)
    golden = json.loads(path.read_text())
    case = case_from_json(json.loads((path.parent / "case.json").read_text()), source=str(path))
    result = boot(case, find_kernel(path.stem), qemu=qemu_path)
    observed = replace(result.outcome(), zones=None, distances=None)
    assert result.ended.value == golden["ended"]
    assert observed.to_json() == golden["outcome"]
