"""Fixtures and markers for projects that test firmware tables; pytest loads them where acpitk is installed.

Fixtures: `acpitk_srat`, `acpitk_predict`, `acpitk_boot`. Markers: `acpitk_kernel(name)`, `acpitk_qemu`,
`acpitk_iasl`; a test that has one skips, with the reason, where that tool is missing. The rest of acpitk is
imported when a fixture or a marker is used. For hypothesis there is `acpitk.fuzz.strategies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from acpitk.api import Case, Outcome, Prediction

_MARKERS = {
    "acpitk_kernel(name)": "needs QEMU and the kernel of `acpitk kernel fetch NAME` (default v6.1)",
    "acpitk_qemu": "needs qemu-system-x86_64",
    "acpitk_iasl": "needs ACPICA's iasl",
}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for name, text in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test whose tool is missing."""
    markers = [mark for mark in item.iter_markers() if mark.name.startswith("acpitk_")]
    for mark in markers:
        if (reason := _missing(mark.name, mark.args)) is not None:
            pytest.skip(reason)


def _missing(marker: str, arguments: tuple[str, ...]) -> str | None:
    from acpitk.errors import ToolError
    from acpitk.iasl import find_iasl
    from acpitk.qemu.image import find_kernel
    from acpitk.qemu.runner import find_qemu

    try:
        if marker == "acpitk_iasl":
            find_iasl()
        if marker in ("acpitk_qemu", "acpitk_kernel"):
            find_qemu()
        if marker == "acpitk_kernel":
            find_kernel(*(arguments or ("v6.1",)))
    except ToolError as error:
        return str(error)
    return None


@pytest.fixture
def acpitk_srat() -> Callable[..., bytes]:
    """`acpitk_srat("0:mem=0-512M", "1:mem=512M-1G,hotplug", revision=3)`: the bytes of that SRAT."""
    from acpitk.api import topology_tables

    def build(*nodes: str, revision: int = 3) -> bytes:
        return topology_tables(*nodes, revision=revision)[0]

    return build


@pytest.fixture
def acpitk_predict() -> Callable[..., Prediction]:
    """`acpitk_predict(tables, memory=1 << 30, cmdline="movable_node", kernel="v6.1")`: what the model says.

    `tables` is the bytes of one table, several of them, or a `Case`, which says memory and cmdline itself.
    """
    from acpitk.api import predict

    def model(
        tables: bytes | Iterable[bytes] | Case,
        *,
        memory: int | None = None,
        cmdline: str | None = None,
        kernel: str = "v6.1",
    ) -> Prediction:
        return predict(_case(tables, memory, cmdline), kernel)

    return model


@pytest.fixture
def acpitk_boot() -> Callable[..., Outcome]:
    """The same question as `acpitk_predict`, to a real kernel; the test skips where QEMU or it is missing."""
    from acpitk.api import boot

    def real(
        tables: bytes | Iterable[bytes] | Case,
        *,
        memory: int | None = None,
        cmdline: str | None = None,
        kernel: str = "v6.1",
        timeout: float = 60,
    ) -> Outcome:
        case = _case(tables, memory, cmdline)
        if (reason := _missing("acpitk_kernel", (kernel,))) is not None:
            pytest.skip(reason)
        return boot(case, kernel, timeout=timeout)

    return real


def _case(tables: bytes | Iterable[bytes] | Case, memory: int | None, cmdline: str | None) -> Case:
    from acpitk.api import Q35, Case, UsageError

    if isinstance(tables, Case):
        if memory is not None or cmdline is not None:
            raise UsageError("a case says its memory and cmdline itself: leave them out")
        return tables
    blobs = (tables,) if isinstance(tables, bytes) else tuple(tables)
    return Case(machine=Q35(1 << 30 if memory is None else memory), tables=blobs, cmdline=cmdline or "")
