"""The Python interface: its examples, what it re-exports, and what importing it costs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import acpitk
from acpitk import api

REPOSITORY = Path(__file__).resolve().parent.parent


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(api)
    assert result.attempted > 10
    assert result.failed == 0


def test_the_package_offers_what_the_interface_does() -> None:
    assert set(acpitk.__all__) == {*api.__all__, "__version__"}
    for name in api.__all__:
        assert getattr(acpitk, name) is getattr(api, name)
        assert name in dir(acpitk)
    with pytest.raises(AttributeError, match="no_such_name"):
        acpitk.no_such_name  # noqa: B018


def _loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else() -> None:
    assert _loaded("import acpitk") - _loaded("pass") == {"acpitk"}


def test_predicting_needs_neither_the_fuzzer_nor_the_command_line() -> None:
    assert not _loaded("from acpitk import predict") & {"hypothesis", "click", "rich", "acpitk.qemu.runner"}


def test_an_unknown_row_is_named() -> None:
    case = acpitk.Case(machine=acpitk.Q35(1 << 30))
    with pytest.raises(acpitk.UsageError, match=r"v9\.9"):
        acpitk.predict(case, "v9.9")


@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
def test_a_boot_agrees_with_the_prediction(qemu_path: Path, kernel_image: Callable[[str], Path]) -> None:
    path = kernel_image("v6.1")
    tables = acpitk.topology_tables("0:mem=0-512M", "1:mem=512M-1G,hotplug")
    case = acpitk.Case(machine=acpitk.Q35(1 << 30), tables=tables, cmdline="movable_node")
    for kernel in ("v6.1", path):
        assert acpitk.boot(case, kernel).zones == acpitk.predict(case).outcome.zones
