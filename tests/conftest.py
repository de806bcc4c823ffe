"""Fixtures for what is outside the package: iasl, QEMU, kernels and real tables.

A missing tool skips its tests with the reason; `ACPITK_REQUIRE=iasl,qemu,kernel` turns that into a failure.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from acpitk.errors import ToolError
from acpitk.iasl import find_iasl
from acpitk.qemu.image import cache_dir, find_kernel

settings.register_profile(
    "acpitk",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.nested_given],  # a mutator draws donors, once, with hypothesis
)
settings.load_profile("acpitk")
os.environ.setdefault("ACPITK_CACHE", str(cache_dir()))  # a test may move HOME
REQUIRED_KERNELS = ("v6.1", "v7.3")
"""What `kernel` in ACPITK_REQUIRE stands for; tests on other kernels skip where those are missing."""
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def iasl_path() -> Path:
    """The installed iasl."""
    try:
        return find_iasl().path
    except ToolError as error:
        _missing("iasl", str(error))


@pytest.fixture(scope="session")
def qemu_path() -> Path:
    """The installed qemu-system-x86_64."""
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        _missing("qemu", "qemu-system-x86_64 is not on PATH: install Debian's qemu-system-x86")
    return Path(found)


@pytest.fixture(scope="session")
def kernel_image() -> Callable[[str], Path]:
    """`kernel_image("v6.1")`: the path of a fetched kernel."""

    def find(name: str) -> Path:
        try:
            return find_kernel(name).path
        except ToolError as error:
            _missing("kernel" if name in REQUIRED_KERNELS else "", str(error))

    return find


@pytest.fixture(scope="session")
def real_tables() -> Path:
    """A directory of tables of real machines, which the repository does not hold."""
    path = Path(os.environ.get("ACPITK_REAL_TABLES", REPOSITORY.parent / "shared" / "real-tables"))
    if not path.is_dir():
        pytest.skip("no real tables: set ACPITK_REAL_TABLES to a directory of *.bin tables")
    return path


def _missing(what: str, reason: str) -> NoReturn:
    if what and what in os.environ.get("ACPITK_REQUIRE", "").split(","):
        pytest.fail(f"ACPITK_REQUIRE names {what}, and it is missing: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def running_in() -> Callable[[int], list[int]]:
    """The processes of a session but for zombies (which a container's first process may keep)."""

    def running(session: int) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, theirs = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(theirs) == session and state not in "ZX":
                found.append(int(path.parent.name))
        return found

    return running


@pytest.fixture(scope="session")
def all_ended(running_in: Callable[[int], list[int]]) -> Callable[[int], bool]:
    """Whether nothing of a session runs, or is gone within 10 s."""

    def ended(session: int) -> bool:
        deadline = time.monotonic() + 10
        while running_in(session) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not running_in(session)

    return ended


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """No descriptor and no child process outlives a test; other tests may keep guests ready."""

    def children() -> set[str]:
        """Processes of this one, dead ones that nobody waited for included."""
        paths = Path("/proc/self/task").glob("*/children")
        return {pid for path in paths for pid in path.read_text().split()}

    files, before = set(os.listdir("/proc/self/fd")), children()
    yield
    assert set(os.listdir("/proc/self/fd")) <= files
    assert children() <= before
