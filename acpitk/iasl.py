"""ACPICA's iasl as one more reader and writer of tables: the only place that runs it.

iasl exits 0 on many bad tables and rewrites some, so it is judged by what it writes. A crash, a hang or a
flood of output is a result. Every run has its own directory, a time limit and a cap on each file it writes.
"""

from __future__ import annotations

import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path

from acpitk.checks.finding import Finding, Severity
from acpitk.errors import ToolError
from acpitk.tables.asl import CURRENT, Dialect, inexpressible, render
from acpitk.tables.slit import slit_fields
from acpitk.tables.srat import SIGNATURE as SRAT
from acpitk.tables.srat import (
    Entry,
    GenericFlags,
    GenericInitiatorAffinity,
    GenericPortAffinity,
    GiccAffinity,
    ItsAffinity,
    MemoryAffinity,
    PciHandle,
    ProcessorAffinity,
    RintcAffinity,
    X2ApicAffinity,
    build_srat,
    encode_srat,
    srat_fields,
)

TIMEOUT_S = 10.0
OUTPUT_LIMIT, OUTPUT_PER_BYTE = 4 << 20, 64
"""Bytes iasl may write to one file, plus so many per byte of input; good source is 30 times its table."""
_ADDRESS_SPACE = 5 << 30
_CREATOR = slice(28, 36)
_MESSAGE = re.compile(r"^(?:Error|Warning|Remark)\s+\d+ - .*", re.MULTILINE)
_VERSION = re.compile(r"\bversion (\d{8})\b")
_MAX_DIFFERENCES = 16


class Ended(StrEnum):
    """How one run of iasl ended."""

    OUTPUT = "output"
    NO_OUTPUT = "no output"
    CRASHED = "crashed"
    HUNG = "hung"
    FLOODED = "flooded"


@dataclass(frozen=True, slots=True, kw_only=True)
class IaslResult:
    """One run.

    Args:
        ended: how.
        output: the file it wrote: table bytes or source text; empty unless `ended` is OUTPUT.
        messages: its errors, warnings and remarks, one line each.
        detail: the signal or the limit, in words.
    """

    ended: Ended
    output: bytes = b""
    messages: tuple[str, ...] = ()
    detail: str = ""


class Verdict(StrEnum):
    """What a round trip through iasl did to a table; worst last."""

    SAME = "same"
    INEXPRESSIBLE = "inexpressible"
    DIFFERS = "differs"
    REJECTED = "rejected"
    FLOODED = "flooded"
    HUNG = "hung"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field iasl changed: `expected` are the table's bytes, `actual` iasl's, possibly fewer."""

    field: str
    offset: int
    expected: bytes
    actual: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One way through iasl and back: what it did, where the bytes differ, what it said.

    `step` is the run that decided it: compile, disassemble or recompile.
    """

    verdict: Verdict
    step: str
    differences: tuple[Difference, ...] = ()
    detail: str = ""
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """Both ways through iasl.

    Args:
        iasl: version of iasl.
        compiled: acpitk's source, compiled by iasl.
        disassembled: iasl's own source, compiled by iasl.
        inexpressible: why iasl cannot reproduce the table; empty when it should.
    """

    iasl: int
    compiled: Trip
    disassembled: Trip
    inexpressible: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worse of the two."""
        return max(self.compiled.verdict, self.disassembled.verdict, key=list(Verdict).index)

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with iasl, or with acpitk's idea of it; nothing for a table iasl cannot express."""
        return tuple(_findings(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Iasl:
    """An installed iasl.

    Args:
        path: the executable.
        version: its release, for example 20200925.
        dialect: what it can express, found by asking it.
    """

    path: Path
    version: int
    dialect: Dialect = CURRENT

    @property
    def srat_types(self) -> frozenset[int]:
        """The affinity structure types it compiles."""
        return self.dialect.srat_types

    def compile(self, source: str, *, timeout_s: float = TIMEOUT_S) -> IaslResult:
        """The table bytes of data-table `source`, creator fields as written there."""
        return self._run(["-z"], "table.asl", source.encode("latin-1", "replace"), ".aml", timeout_s)

    def disassemble(self, table: bytes, *, timeout_s: float = TIMEOUT_S) -> IaslResult:
        """The source text of `table`, as bytes."""
        return self._run(["-d"], "table.bin", table, ".dsl", timeout_s)

    def round_trip(self, table: bytes, *, timeout_s: float = TIMEOUT_S) -> RoundTrip:
        """Render, compile and compare `table`; disassemble, recompile and compare it.

        Creator ID and revision are not compared; the checksum is compared where they survived.

        Raises:
            DecodeError: `table` is no SRAT or SLIT.
        """
        reasons = inexpressible(table, dialect=self.dialect)
        compiled = self.compile(render(table, dialect=self.dialect), timeout_s=timeout_s)
        disassembled = self.disassemble(table, timeout_s=timeout_s)
        step = "disassemble"
        if disassembled.ended is Ended.OUTPUT:
            step = "recompile"
            text = disassembled.output.decode("latin-1")
            disassembled = self.compile(text, timeout_s=timeout_s)
        return RoundTrip(
            iasl=self.version,
            compiled=_trip(table, compiled, reasons, "compile"),
            disassembled=_trip(table, disassembled, reasons, step),
            inexpressible=reasons,
        )

    def _run(self, options: list[str], name: str, data: bytes, suffix: str, timeout_s: float) -> IaslResult:
        with tempfile.TemporaryDirectory(prefix="acpitk-iasl-") as directory:
            work = Path(directory)
            (work / name).write_bytes(data)
            limit = OUTPUT_LIMIT + len(data) * OUTPUT_PER_BYTE
            command: list[str | Path] = [self.path, *options, "-p", "out", name]
            ended, detail, log = _execute(command, work, limit, timeout_s)
            messages = tuple(_MESSAGE.findall(log))
            output = work / f"out{suffix}"
            if ended is Ended.OUTPUT and not output.is_file():
                ended, detail = Ended.NO_OUTPUT, messages[0] if messages else ""
            written = output.read_bytes() if ended is Ended.OUTPUT else b""
            return IaslResult(ended=ended, output=written, messages=messages, detail=detail)


def find_iasl(path: Path | None = None) -> Iasl:
    """The iasl at `path`, or the one on PATH, with what it can express.

    Raises:
        ToolError: there is none, or it is not an iasl.
    """
    name = str(path or "iasl")
    found = shutil.which(name)
    if found is None:
        raise ToolError(f"{name}: no such program: install ACPICA's iasl (package acpica-tools)")
    with tempfile.TemporaryDirectory(prefix="acpitk-iasl-") as directory:
        _, detail, log = _execute([Path(found).absolute(), "-v"], Path(directory), OUTPUT_LIMIT, TIMEOUT_S)
    version = _VERSION.search(log)
    if version is None:
        raise ToolError(f"{found} -v names no version{f' ({detail})' if detail else ''}: not ACPICA's iasl?")
    plain = Iasl(path=Path(found).absolute(), version=int(version[1]))
    return replace(plain, dialect=_detect(plain))


def _detect(iasl: Iasl) -> Dialect:
    """What `iasl` can express: it compiles one table per affinity structure type to the right bytes."""
    for generic_flags in (CURRENT.generic_flags, GenericFlags.ENABLED):
        dialect = Dialect(generic_flags=generic_flags)
        types = frozenset(entry.type for entry in _probes(generic_flags) if _reproduces(iasl, entry, dialect))
        if GenericInitiatorAffinity.type in types:
            break
    if MemoryAffinity.type not in types:
        raise ToolError(
            f"{iasl.path}: iasl {iasl.version} does not compile a plain SRAT: use another release"
        )
    return Dialect(srat_types=types, generic_flags=generic_flags)


def _probes(generic_flags: GenericFlags) -> tuple[Entry, ...]:
    handle = PciHandle(segment=0, bus=0, devfn=0)
    return (
        ProcessorAffinity(proximity_domain=1, apic_id=1),
        MemoryAffinity(proximity_domain=1, base=0, length=1 << 20),
        X2ApicAffinity(proximity_domain=1, x2apic_id=1),
        GiccAffinity(proximity_domain=1, acpi_processor_uid=1),
        ItsAffinity(proximity_domain=1, its_id=1),
        GenericInitiatorAffinity(proximity_domain=1, handle=handle, flags=generic_flags),
        GenericPortAffinity(proximity_domain=1, handle=handle, flags=generic_flags),
        RintcAffinity(proximity_domain=1, acpi_processor_uid=1),
    )


def _reproduces(iasl: Iasl, entry: Entry, dialect: Dialect) -> bool:
    table = encode_srat(build_srat((entry,)))
    return iasl.compile(render(table, dialect=dialect)).output == table


def _execute(
    command: Sequence[str | Path], work: Path, output_limit: int, timeout_s: float
) -> tuple[Ended, str, str]:
    """Run in `work`; how it ended (OUTPUT: by itself), the detail, and what it printed."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (output_limit, output_limit))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    log = work / "log"
    with log.open("wb") as printed:
        try:
            done = subprocess.run(
                command,
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                timeout=timeout_s,
                preexec_fn=limit,
                env={"LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ended.HUNG, f"no end after {timeout_s:g} s", ""
        except (OSError, subprocess.SubprocessError) as error:
            raise ToolError(f"{command[0]}: cannot be run: {error}") from None
    text = log.read_text("latin-1")
    if done.returncode == -signal.SIGXFSZ:
        return Ended.FLOODED, f"more than {output_limit} bytes of output", text
    if done.returncode < 0:
        return Ended.CRASHED, signal.Signals(-done.returncode).name, text
    return Ended.OUTPUT, "", text


def _trip(table: bytes, result: IaslResult, reasons: tuple[str, ...], step: str) -> Trip:
    differences: tuple[Difference, ...] = ()
    if result.ended is Ended.OUTPUT:
        differences = tuple(islice(_differences(table, result.output), _MAX_DIFFERENCES))
        verdict = Verdict.SAME if not differences else Verdict.INEXPRESSIBLE if reasons else Verdict.DIFFERS
    elif result.ended is Ended.NO_OUTPUT:
        verdict = Verdict.INEXPRESSIBLE if reasons else Verdict.REJECTED
    else:
        verdict = Verdict(result.ended.value)
    return Trip(
        verdict=verdict, step=step, differences=differences, detail=result.detail, messages=result.messages
    )


def _differences(table: bytes, actual: bytes) -> Iterator[Difference]:
    fields = srat_fields if table[:4] == SRAT else slit_fields
    ignored = {"header.creator_id", "header.creator_revision"}
    if table[_CREATOR] != actual[_CREATOR]:
        ignored.add("header.checksum")
    for field in fields(table):
        at = slice(field.offset, field.offset + field.size)
        if table[at] != actual[at] and field.name not in ignored:
            yield Difference(field=field.name, offset=field.offset, expected=table[at], actual=actual[at])
    if len(actual) > len(table):
        yield Difference(field="end", offset=len(table), expected=b"", actual=actual[len(table) :])


def _findings(trip: RoundTrip) -> Iterator[Finding]:
    for one in (trip.compiled, trip.disassembled):
        if one.verdict in (Verdict.SAME, Verdict.INEXPRESSIBLE):
            continue
        first = one.differences[0] if one.differences else None
        cause = {
            Verdict.DIFFERS: re.sub(r"\[\d+\]", "[]", first.field) if first else "",
            Verdict.REJECTED: one.detail.partition(" - ")[0],
            Verdict.CRASHED: one.detail,
        }.get(one.verdict, "")
        yield Finding(
            id=f"IASL-{one.verdict.name}",
            severity=Severity.NOTE
            if one.verdict in (Verdict.DIFFERS, Verdict.REJECTED)
            else Severity.WARNING,
            where=f"iasl {trip.iasl}, {one.step}"
            + (f": {first.field} at byte {first.offset}" if first else ""),
            offset=first.offset if first else None,
            expected="the same bytes back" + (f": {first.expected.hex(' ')}" if first else ""),
            actual=first.actual.hex(" ") if first else f"iasl {one.verdict}: {one.detail}",
            advice="report it to ACPICA, or compare with another release of iasl",
            mechanism=f"iasl {trip.iasl}",
            cause=f"{one.step}:{cause}" if cause else one.step,
        )
