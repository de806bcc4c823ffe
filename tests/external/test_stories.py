"""The cases that docs/stories.md tells are still what real kernels make of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.checks.catalogue import RULES
from acpitk.cli.oracles import boot_fate
from acpitk.corpus import StoredCase, load_corpus
from acpitk.qemu.image import find_kernel

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = {path.name[:-18]: stored for path, stored in load_corpus(REPOSITORY / "corpus").cases}
TOLD = re.findall(
    r"`([a-z0-9-]+)`", " ".join(re.findall(r"^### .*", (REPOSITORY / "docs/stories.md").read_text(), re.M))
)
CONFIRMED = {name: stored for name, stored in CASES.items() if "booted" in (stored.finding or {})}


def test_every_story_has_its_case_and_every_confirmed_case_its_story() -> None:
    assert set(TOLD) <= set(CASES)
    assert set(CONFIRMED) <= set(TOLD)
    signatures = {signature for stored in CONFIRMED.values() for signature in stored.findings}
    assert len(signatures) >= 15
    assert {signature.partition(":")[0] for signature in signatures} <= set(RULES)


@pytest.mark.qemu
@pytest.mark.kernel
@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
@pytest.mark.parametrize(("name", "stored"), CONFIRMED.items(), ids=list(CONFIRMED))
def test_a_story_is_true(
    name: str, stored: StoredCase, kernel: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    finding = dict(stored.finding or {})
    fate = boot_fate(stored.case, find_kernel(kernel), kernel)
    assert fate.words == finding["booted"][kernel]
    assert fate.shows(str(finding["signature"])) is (kernel in finding["kernels"])
