"""A finding as a directory: tables, source, QEMU script, consoles, prediction, and a text for maintainers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from acpitk.checks.catalogue import RULES
from acpitk.checks.finding import Finding, Severity
from acpitk.checks.invariants import check
from acpitk.cli.oracles import BOOT_TIMEOUT, boot_fate
from acpitk.cli.output import note, write_file
from acpitk.corpus import StoredCase
from acpitk.errors import AcpitkError, UsageError
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.qemu.argv import qemu_argv, shell_line, undeliverable
from acpitk.qemu.boots import unbootable
from acpitk.qemu.image import KernelImage, list_kernels
from acpitk.qemu.initramfs import padded
from acpitk.qemu.runner import PROGRAM
from acpitk.report.dossier import Fate, dossier
from acpitk.report.explain import explain
from acpitk.tables import asl

_KERNEL = "$kernel"


def fates(case: Case, images: Sequence[KernelImage], *, timeout: float = BOOT_TIMEOUT) -> Iterator[Fate]:
    """What becomes of a case on each image that has a row in the model.

    Raises:
        UsageError, ToolError: as `qemu.runner.boot`.
    """
    for image in images:
        if image.name in POLICIES:
            note(f"booting {image.version}")
            yield boot_fate(case, image, image.name, timeout=timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: the finding it is about, and what became of the case on each kernel."""

    finding: Finding
    fates: tuple[Fate, ...]


def export(stored: StoredCase, directory: Path) -> Exported:
    """Write the directory, booting every fetched kernel where the case can be booted.

    Raises:
        UsageError: the directory cannot be written, or is there and not empty.
        ToolError: QEMU is missing or does not run.
    """
    case = stored.case
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory}: is not empty; name a new directory")
    booted = () if unbootable(case) else tuple(fates(case, list_kernels()))
    finding = _finding(stored, booted)
    row = _shown_on(stored, finding, booted)
    files = dict(_files(stored, booted))
    prediction = predict(case, POLICIES[row])
    story = explain(case, prediction, POLICIES[row], check(case, prediction))
    text = dossier(
        case,
        finding=finding,
        fates=booted,
        steps=story.steps,
        files=[f"`{name}`: {words}" for name, (words, _) in files.items()],
        provenance=stored.provenance,
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, (_, data) in files.items():
            write_file(directory / name, data)
        if (script := directory / "boot.sh").exists():
            script.chmod(0o755)
        write_file(directory / "REPORT.md", text.encode())
    except OSError as error:
        raise UsageError(f"{directory}: cannot write there: {error.strerror}") from None
    return Exported(finding=finding, fates=booted)


def _finding(stored: StoredCase, booted: Sequence[Fate]) -> Finding:
    """The finding the case was stored for, else the worst that its boots or its tables show."""
    known = stored.finding or {}
    shown = [finding for fate in booted for finding in fate.findings]
    modelled = [
        finding for row in POLICIES.values() for finding in check(stored.case, predict(stored.case, row))
    ]
    wanted = str(known.get("signature", "")) or (stored.findings or ("",))[0]
    deaths = [each for each in shown if each.id.startswith("BOOT-") and each.severity is Severity.ERROR]
    candidates = [*shown, *modelled]
    if wanted.startswith("POL-PANIC") and deaths:
        return deaths[0]  # what the kernel itself says is worth more
    if (found := next((each for each in candidates if each.signature == wanted), None)) is not None:
        return found
    if known.get("id") in RULES:
        return Finding(
            id=str(known["id"]),
            severity=Severity(str(known["severity"])),
            where=str(known.get("where", "")),
            expected=str(known.get("expected", "")),
            actual=str(known.get("actual", "")),
            advice=str(known.get("advice", "")),
            cause=wanted.partition(":")[2],
        )
    if candidates:
        return min(candidates, key=lambda each: each.severity.rank)
    raise UsageError("the case shows nothing to report")


def _shown_on(stored: StoredCase, finding: Finding, booted: Sequence[Fate]) -> str:
    """The row that tells the story: of a kernel that shows the finding."""
    named = [fate.kernel for fate in booted if fate.shows(finding.signature)]
    named += [*finding.kernels, stored.kernel or "v6.1"]
    return next((name for name in named if name in POLICIES), "v6.1")


def _files(stored: StoredCase, booted: Sequence[Fate]) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Name -> what it is, and its bytes."""
    case = stored.case
    names = _table_names(case)
    for name, table in zip(names, case.tables, strict=True):
        yield name, ("the table", table)
        try:
            source = asl.render(table)
        except AcpitkError:
            continue
        left_out = asl.inexpressible(table)
        words = f"; iasl cannot say all of it: {left_out[0]}" if left_out else ""
        yield name.replace(".bin", ".asl"), (f"its source for iasl{words}", source.encode())
    yield "case.json", ("the case, for `acpitk replay`", _json(stored.to_json()))
    initrd = case.machine.initrd if isinstance(case.machine, Q35) else 0
    if initrd:
        yield "initrd.img", ("an empty initrd of the size that matters", padded(initrd))
    if not undeliverable(case):
        argv = qemu_argv(
            case,
            qemu=PROGRAM,
            kernel=Path(_KERNEL),
            table_paths=[Path(name) for name in names],
            initrd=Path("initrd.img") if initrd else None,
        )
        yield "boot.sh", ("boots it: `./boot.sh VMLINUX`", _script(shell_line(argv)).encode())
    predictions = {row: predict(case, policy).outcome.to_json() for row, policy in POLICIES.items()}
    yield "prediction.json", ("what the model says of each kernel", _json(predictions))
    for fate in booted:
        yield f"console-{fate.kernel}.log", (f"what {fate.version} printed", fate.console.encode())


def _table_names(case: Case) -> list[str]:
    names: list[str] = []
    for table in case.tables:
        stem = table[:4].decode("latin-1").lower()
        stem = stem if stem.isascii() and stem.isalnum() else "table"
        names.append(f"{stem}.bin" if f"{stem}.bin" not in names else f"{stem}-{len(names)}.bin")
    return names


def _script(line: str) -> str:
    line = line.replace(f"'{_KERNEL}'", f'"{_KERNEL}"').replace(f" {_KERNEL} ", f' "{_KERNEL}" ')
    return (
        "#!/bin/sh\n"
        "# Boots an uncompressed vmlinux with a PVH entry (CONFIG_PVH), its console on standard output.\n"
        f'kernel=$(realpath "${{1:?usage: $0 VMLINUX}}") && cd "$(dirname "$0")" && exec {line}\n'
    )


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()
