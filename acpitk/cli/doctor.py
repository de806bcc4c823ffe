"""`acpitk doctor`: what is here, what works, and the one line that mends what does not."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import click

from acpitk import __version__
from acpitk.cli.inputs import json_option
from acpitk.cli.output import emit, emit_json
from acpitk.cli.topologies import read_preset
from acpitk.errors import AcpitkError, ToolError
from acpitk.iasl import find_iasl
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.oracle.store import list_oracles, oracle_names, remedy, verify_oracle
from acpitk.outcome import NumaState
from acpitk.qemu.boots import tried
from acpitk.qemu.host import kvm_problem, program_version
from acpitk.qemu.image import SUITES, cache_dir, list_kernels, verify
from acpitk.qemu.runner import Via, find_qemu, qemu_version
from acpitk.ranges import GIB, KIB, format_size
from acpitk.report.text import table
from acpitk.tables.srat import SUBTABLES, encode_srat

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Status(StrEnum):
    """How one thing stands."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Args:
        name: what.
        status: OK; NOTE for something optional that is missing or slow; BROKEN for what is here and bad.
        detail: version and place, or what is wrong.
        fix: the one line that mends it; empty where nothing needs to be done.
        needed: prediction does not work without it.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    needed: bool = False


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Say what is installed, which kernels are at hand, whether KVM works, and what would mend the rest.

    Exit status 0: everything that prediction needs works; what only boots, iasl or reports need is a note.
    Exit status 3: prediction does not work.

    \b
    Examples:
      acpitk doctor
      acpitk doctor --json
    """
    checks = list(_checks())
    works = not any(check.needed and check.status is not Status.OK for check in checks)
    if as_json:
        emit_json({"schema": 1, "prediction_works": works, "checks": [_document(check) for check in checks]})
    else:
        rows = ((check.status.value, check.name, check.detail) for check in checks)
        emit(table("Here", ("", "what", "how it stands"), rows))
        if fixes := [(check.name, check.fix) for check in checks if check.fix]:
            emit(table("To mend", ("what", "how"), fixes))
        emit("Prediction works." if works else "Prediction does not work.")
    return 0 if works else ToolError.exit_code


def _document(check: Check) -> dict[str, object]:
    out: dict[str, object] = {"name": check.name, "status": check.status.value, "detail": check.detail}
    return out | ({"fix": check.fix} if check.fix else {}) | {"needed": check.needed}


def _checks() -> Iterator[Check]:
    yield Check(
        name="Python",
        status=Status.OK if sys.version_info >= (3, 11) else Status.BROKEN,
        detail=f"{platform.python_version()}, {sys.executable}",
        fix="" if sys.version_info >= (3, 11) else "use Python 3.11 or later",
        needed=True,
    )
    yield Check(
        name="acpitk",
        status=Status.OK,
        detail=f"{__version__}, {Path(__file__).parent.parent}",
        needed=True,
    )
    yield _dependencies()
    yield _prediction()
    yield _tool("iasl", _iasl, "Debian: apt install acpica-tools")
    yield from _qemu()
    yield _tool(
        "C compiler", _compiler, "for quick boots, boot --remove and --hot-add; Debian: apt install gcc"
    )
    yield _tool("browser", _browser, "only to look at HTML reports; Debian: apt install chromium")
    yield from _kernels()
    yield from _oracles()
    yield from _ways()
    yield _cache()


def _tool(name: str, ask: Callable[[], str], fix: str) -> Check:
    """A tool that is optional: `ask` gives its version and place."""
    try:
        return Check(name=name, status=Status.OK, detail=ask())
    except AcpitkError as error:
        return Check(name=name, status=Status.NOTE, detail=str(error), fix=fix)


def _dependencies() -> Check:
    here, missing = [], []
    try:
        required = importlib.metadata.requires("acpitk") or []
    except importlib.metadata.PackageNotFoundError:
        required = []  # run from a source tree
    for name in (re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line):
        try:
            here.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return Check(
        name="Python packages",
        status=Status.BROKEN if missing else Status.OK,
        detail=f"missing: {', '.join(missing)}" if missing else ", ".join(here),
        fix=f"pip install {' '.join(missing)}" if missing else "",
        needed=True,
    )


def _prediction() -> Check:
    """Whether each row of the model takes a preset's SRAT, really asked."""
    try:
        file = read_preset("two-socket")
        srat = encode_srat(file.topology.tables()[0])
        case = Case(machine=Q35(file.guest or 4 * GIB), tables=(srat,))
        bad = [n for n, row in POLICIES.items() if predict(case, row).outcome.numa is not NumaState.SRAT]
        problem = f"wrong answer for {', '.join(bad)}" if bad else ""
    except (AcpitkError, OSError) as error:
        problem = str(error)
    return Check(
        name="prediction",
        status=Status.BROKEN if problem else Status.OK,
        detail=problem or f"asked of {', '.join(POLICIES)}",
        fix="install acpitk anew" if problem else "",
        needed=True,
    )


def _iasl() -> str:
    iasl = find_iasl()
    unknown = [f"{kind} ({row.label})" for kind, row in SUBTABLES.items() if kind not in iasl.srat_types]
    lacks = f", does not know SRAT type {', '.join(unknown)}" if unknown else ", knows every SRAT type"
    return f"{iasl.version}, {iasl.path}{lacks}"


def _qemu() -> Iterator[Check]:
    install = "Debian: apt install qemu-system-x86"
    try:
        qemu = find_qemu()
        version = qemu_version(qemu)
        problem = kvm_problem(qemu)
    except ToolError as error:
        yield Check(name="QEMU", status=Status.NOTE, detail=str(error), fix=install)
        yield Check(name="KVM", status=Status.NOTE, detail="not asked: it takes QEMU", fix="")
        return
    yield Check(name="QEMU", status=Status.OK, detail=f"{version}, {qemu}")
    if problem is None:
        yield Check(
            name="KVM", status=Status.OK, detail="a guest starts on it; acpitk boots with TCG all the same"
        )
    else:
        yield Check(name="KVM", status=Status.NOTE, detail=f"not usable: {problem}; TCG boots instead")


def _compiler() -> str:
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        raise ToolError("gcc and cc are not on PATH")
    return f"{program_version(Path(found))}, {found}"


def _browser() -> str:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise ToolError(f"{', '.join(_BROWSERS)}: not on PATH")
    return f"{program_version(Path(found))}, {found}"


def _kernels() -> Iterator[Check]:
    here = {image.name: image for image in list_kernels()}
    for name in SUITES:
        if name not in here:
            fix = f"acpitk kernel fetch {name}"
            yield Check(name=f"kernel {name}", status=Status.NOTE, detail="not fetched", fix=fix)
            continue
        image = here[name]
        try:
            verify(image)
        except (ToolError, OSError) as error:
            fix = f"rm -r {image.path.parent} and then acpitk kernel fetch {name}"
            yield Check(name=f"kernel {name}", status=Status.BROKEN, detail=str(error), fix=fix)
        else:
            detail = f"{image.version}, checksum right, {image.path}"
            yield Check(name=f"kernel {name}", status=Status.OK, detail=detail)


def _oracles() -> Iterator[Check]:
    """Each oracle that was built, and whether it is still the one to use."""
    usable = {build.name: build for build in list_oracles()}
    kernels = {image.name: image.version for image in list_kernels()}
    for name in oracle_names():
        status, build, fix = Status.OK, usable.get(name), remedy(name)
        try:
            if build is not None:
                verify_oracle(build)
        except ToolError as error:
            status, detail = Status.BROKEN, str(error)
        else:
            if build is None:
                status, detail = Status.NOTE, "stale: built by another version of acpitk"
            elif (fetched := kernels.get(name, build.release)) != build.release:
                status, detail = (
                    Status.NOTE,
                    f"stale: of {build.release}, and the fetched kernel is {fetched}",
                )
            else:
                gate = f"{build.gated} recorded boots repeated" if build.gated else "no boots recorded of it"
                detail, fix = f"{build.release}, compared with row {build.row}, {gate}, {build.path}", ""
        yield Check(name=f"oracle {name}", status=status, detail=detail, fix=fix)


def _ways() -> Iterator[Check]:
    """Which ways to boot work with each kernel, really tried."""
    try:
        qemu = find_qemu()
    except ToolError:
        return
    for image in list_kernels():
        missing = {way: why for way in Via if (why := tried(way, image, qemu)) is not None}
        works = ", ".join(way for way in Via if way not in missing)
        why = "".join(f"; no {way}: {reason}" for way, reason in missing.items())
        yield Check(
            name=f"boots of {image.name}",
            status=Status.NOTE if missing else Status.OK,
            detail=f"{works or 'none'}{why}",
        )


def _cache() -> Check:
    directory = cache_dir()
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    held = format_size(-(-sum(sizes) // KIB) * KIB)
    return Check(name="cache", status=Status.OK, detail=f"{directory}, {held} in {len(sizes)} files")
