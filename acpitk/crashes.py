"""Console text of a kernel that warned or died -> what happened, where, and a name that survives versions.

A crash is named by its kind and its site: the first function of the call trace that is no helper, without
offsets, compiler suffixes and addresses. Functions that some versions inline into others go by the name
they have in the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from acpitk import klog

_REPORT_LINES = 120
"""Lines after the first one that belong to a report at most."""


class CrashKind(StrEnum):
    """How the kernel complained, worst first."""

    PANIC = "panic"
    OOPS = "oops"
    HANG = "hang"
    RESET = "reset"
    WARN = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """One report of a kernel.

    Args:
        kind: what it is.
        text: its first line, without time stamps.
        cause: stable name: no address, size, offset or line number.
        function: the site, None where the report names none.
        trace: functions from the site outwards, as the report prints them, guesses (`?`) included.
        lines: the report as printed.
    """

    kind: CrashKind
    text: str
    cause: str
    function: str | None = None
    trace: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def fatal(self) -> bool:
        """Whether the boot ended there."""
        return self.kind is not CrashKind.WARN


_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_WARN = re.compile(r"WARNING: (?:CPU: \d+ PID: \d+ at )?[\w./-]+:\d+ (?:at )?(\w[\w.]*)\+0x")
_OOPSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"BUG: kernel NULL pointer dereference"), "null pointer dereference"),
    (re.compile(r"BUG: unable to handle page fault"), "page fault"),
    (re.compile(r"kernel BUG at "), "BUG"),
    (re.compile(r"(?:Oops: )?general protection fault"), "general protection fault"),
    (re.compile(r"(?:Oops: )?divide error"), "division by zero"),
    (re.compile(r"(?:Oops: )?invalid opcode"), "invalid opcode"),
    (re.compile(r"(?:Oops: )?stack segment"), "stack segment fault"),
    (re.compile(r"PANIC: double fault"), "double fault"),
)
_EARLY = re.compile(r"PANIC: early exception 0x([0-9a-f]+)")
_VECTORS = {0x00: "division by zero", 0x06: "invalid opcode", 0x08: "double fault"}
_VECTORS |= {0x0C: "stack segment fault", 0x0D: "general protection fault", 0x0E: "page fault"}
_ECHOES = re.compile(r"Attempted to kill|Fatal exception|Fatal exception in interrupt")
"""Panics that only end an oops."""
_RIP = re.compile(r"RIP: (?:[0-9a-f]+:)?(\w[\w.]*)\+0x")
_FRAME = re.compile(r"\s(?:\? )?(\w[\w.]*)\+0x(?P<at>[0-9a-f]+)/0x(?!(?P=at)$)[0-9a-f]+$")
"""A frame; an address past the end of a function belongs to another one, which ends in a noreturn call."""
_END = re.compile(r"---\[ end ")
_SUFFIX = re.compile(r"\.(?:constprop|isra|part|cold|llvm)(?:\.\d+)*")
_GENERIC = re.compile(
    r"__pfx_|_*(?:mem(?:cpy|set|cmp|move|chr)|bitmap_(?:set|clear|fill|zero)|str(?:len|cmp|cpy|n?cat))(?:_\w+)?$"
    r"|dump_stack|show_stack|v?panic$|nmi_panic|_?printk|vprintk|__warn|warn_slowpath|report_bug|handle_bug"
    r"|(?:asm_)?exc_|die\b|__die|no_context|page_fault_oops|do_user_addr_fault|bad_area|early_fixup_exception"
    r"|do_early_exception|_raw_(?:spin|read|write)_|__list_(?:add|del)|kasan_|restore_regs|error_entry"
)
"""Functions that say nothing about whose fault it is."""

_INLINED: Mapping[str, str] = MappingProxyType(
    {
        "acpi_parse_slit": "acpi_numa_slit_init",
        "free_area_init": "memmap_init",
        "mm_core_init_early": "memmap_init",
        "memmap_init_range": "memmap_init",
        "memmap_init_zone": "memmap_init",
        "memmap_init_zone_range": "memmap_init",
        "sparse_init_subsection_map": "subsection_map_init",
    }
)
"""Function in a trace -> what of the source it stands for: read in the traces of 5.10 to 7.3."""


def crashes(console: str, *, ended: str) -> tuple[Crash, ...]:
    """The warnings of a boot in order, and its end where it died, as the last one.

    Args:
        console: text as the serial port gave it.
        ended: how the boot ended, a `qemu.runner.BootEnd`; `timeout`, `silent` and `exited` are deaths of
            their own where nothing was printed.

    Returns:
        One for each cause; what follows a death is left out.
    """
    log = klog.lines(console)
    found: dict[str, Crash] = {}
    for crash in _reports(log):
        found.setdefault(f"{crash.kind} {crash.cause}", crash)
        if crash.fatal:
            return tuple(found.values())
    if (silent := _unprinted(log, ended)) is not None:
        return (*found.values(), silent)
    return tuple(found.values())


def death(console: str, *, ended: str) -> Crash | None:
    """What the boot died of, None where it lived."""
    return next((crash for crash in crashes(console, ended=ended) if crash.fatal), None)


def _reports(log: Sequence[str]) -> Iterator[Crash]:
    for at, line in enumerate(log):
        if (match := _WARN.match(line)) is not None:
            site = _site([_SUFFIX.sub("", match[1]), *_frames(_body(log, at))])
            yield _crash(CrashKind.WARN, log, at, f"in {site}", match[1])
        elif (match := _PANIC.match(line)) is not None and not _ECHOES.search(match[1]):
            yield _crash(CrashKind.PANIC, log, at, message_cause(match[1]), None)
        elif (match := _EARLY.match(line)) is not None:
            vector = int(match[1], 16)
            yield _crash(
                CrashKind.OOPS, log, at, f"early {_VECTORS.get(vector, f'exception {vector}')}", None
            )
        elif (kind := next((name for pattern, name in _OOPSES if pattern.match(line)), None)) is not None:
            yield _crash(CrashKind.OOPS, log, at, kind, _rip(_body(log, at)))


def _crash(kind: CrashKind, log: Sequence[str], at: int, cause: str, top: str | None) -> Crash:
    body = _body(log, at)
    frames = [*([_SUFFIX.sub("", top)] if top else []), *_frames(body)]
    site = _site(frames)
    if kind is CrashKind.OOPS and site is not None and not cause.startswith("early"):
        cause = f"{cause} in {site}"
    trace = tuple(dict.fromkeys(frame for frame in frames if not _GENERIC.match(frame)))
    return Crash(kind=kind, text=log[at].strip(), cause=cause, function=site, trace=trace, lines=tuple(body))


def _body(log: Sequence[str], at: int) -> Sequence[str]:
    """The lines of the report that begins at `at`: to its end mark, or to the next report."""
    last = min(len(log), at + _REPORT_LINES)
    for index in range(at + 1, last):
        if _END.match(log[index]):
            return log[at : index + 1]
        if _WARN.match(log[index]) or _PANIC.match(log[index]):
            return log[at:index]
    return log[at:last]


def _rip(body: Sequence[str]) -> str | None:
    return next((match[1] for line in body if (match := _RIP.match(line))), None)


def _frames(body: Sequence[str]) -> list[str]:
    """Functions of the call trace, innermost first; of an exception's own trace what it interrupted."""
    frames = [_SUFFIX.sub("", match[1]) for line in body if (match := _FRAME.match(line))]
    entered = [i for i, frame in enumerate(frames) if frame.startswith("asm_exc_")]
    return frames[entered[-1] + 1 :] if entered else frames


def _site(frames: Sequence[str]) -> str | None:
    site = next((frame for frame in frames if not _GENERIC.match(frame)), None)
    return site and _INLINED.get(site, site)


_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|-?\d+")


def message_cause(text: str) -> str:
    """A panic message without what varies from case to case: addresses and numbers."""
    return " ".join(_NUMBER.sub("N", text.lower()).split())


def _unprinted(log: Sequence[str], ended: str) -> Crash | None:
    last = next((line.strip() for line in reversed(log) if line.strip()), "")
    if ended in ("timeout", "silent"):
        after = f"after: {message_cause(last)}" if last else "without a word"
        return Crash(kind=CrashKind.HANG, text=last, cause=_without_trace(after))
    if ended == "exited":
        return Crash(kind=CrashKind.RESET, text=last, cause=_without_trace(f"after: {message_cause(last)}"))
    return None


def _without_trace(words: str) -> str:
    """A `memblock=debug` line by its function alone: the caller's offset is another in every build."""
    return re.sub(r"\[.*?\] ?", "", re.sub(r"\+N/N", "", words))
