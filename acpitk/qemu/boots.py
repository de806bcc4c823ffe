"""Runs cases on one kernel by the best way that works here: forked, from a snapshot, or booted.

A quick way stops at an end it knows. Whatever else becomes of a case (its CPU halts, it uses up its time, its
log outgrows printk's buffer), it is booted fresh with a serial console, and that is its result.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Protocol, TypeVar
from weakref import WeakSet

from acpitk import klog
from acpitk.errors import ToolError, UsageError
from acpitk.machine import Q35, Case
from acpitk.qemu import argv as fresh
from acpitk.qemu import forkserver, snapshot
from acpitk.qemu.anatomy import DEAD, ENDS, RESTART
from acpitk.qemu.firmware import host_machine, unwritable
from acpitk.qemu.guest_memory import observe
from acpitk.qemu.image import KernelImage
from acpitk.qemu.runner import BootEnd, BootResult, Delivery, Marker, Via, boot, find_qemu
from acpitk.qemu.stopped import GuestLostError, Ran, anatomy_for, undeliverable
from acpitk.ranges import GIB, MIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import (
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    X2ApicAffinity,
    build_srat,
    encode_srat,
)

AUTO: Final = "auto"
CHOICES: Final = (*(via.value for via in Via), AUTO)
"""What `--boot-via` takes."""
GUESTS_MAX: Final = 8
"""Guests that one `Boots` keeps ready, of about 200 MiB each."""
_TRIES = 2
"""Guests that may be lost over one case."""


T = TypeVar("T")


class _Guest(Protocol):
    """A guest that runs one case after another."""

    def run(self, case: Case, *, use: Callable[[Ran], T]) -> T | None:
        """Run a case, and what `use` makes of its end; None where it came to none in time."""

    def close(self) -> None:
        """End it."""

    def abandon(self) -> None:
        """Let go of it in a process that only inherited it."""


def unbootable(case: Case) -> tuple[str, ...]:
    """Why no channel can hand this case to a guest as it is; empty when one can."""
    if not (reasons := fresh.undeliverable(case)):
        return ()
    if (other := unwritable(case) or fresh.cmdline_problem(case.cmdline)) is None:
        return ()
    return other, *reasons


def delivery_of(case: Case) -> Delivery:
    """The channel of a fresh boot: `-acpitable` where that does not change the tables."""
    return Delivery.GUEST_MEMORY if fresh.undeliverable(case) else Delivery.ACPITABLE


def check_via(via: str, image: KernelImage) -> None:
    """Refuse early a way that was asked for and does not work.

    Raises:
        ToolError: it does not.
    """
    if via != AUTO and (why := problem(Via(via), image, find_qemu())) is not None:
        raise ToolError(f"--boot-via {via}: {why}")


class Boots:
    """Runs cases on `image`. Several threads may ask at once. Close it, or use it as a context manager."""

    def __init__(
        self,
        image: KernelImage,
        *,
        via: str = AUTO,
        qemu: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Find the way; guests are started as they are asked for.

        Args:
            via: one of `CHOICES`; with `auto` the best one that works.
            note: told once why a better way does not work.

        Raises:
            UsageError: no such way.
            ToolError: no QEMU, or the way that was asked for does not work here.
        """
        if via not in CHOICES:
            raise UsageError(f"no way to boot is called {via!r}; known: {', '.join(CHOICES)}")
        self.image = image
        self._qemu = qemu or find_qemu()
        self._note, self._fixed = note, via != AUTO
        self._lock = threading.Lock()
        self._idle: list[tuple[Q35, _Guest]] = []
        self._busy = 0
        self._closed = False
        self.via = Via.FRESH if via == AUTO else Via(via)
        if not self._fixed:
            self._settle_for(tuple(Via))
        elif (why := problem(self.via, image, self._qemu)) is not None:
            raise ToolError(f"--boot-via {via}: {why}")
        _open.add(self)

    def _settle_for(self, ways: Sequence[Via]) -> None:
        for way in ways:
            if (why := problem(way, self.image, self._qemu)) is None:
                self.via = way
                return
            self._note(f"{self.image.name}: not booting via {way}, the next way is slower: {why}")

    def __enter__(self) -> Boots:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every guest."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for _, guest in idle:
            guest.close()

    def boot(
        self,
        case: Case,
        *,
        timeout: float = 30,
        marker: Marker = Marker.ZONES,
        stop: threading.Event | None = None,
    ) -> BootResult:
        """What becomes of `case`, as `runner.boot`; `timeout` is for a fresh boot.

        Raises:
            UsageError: no channel can hand it to a guest, see `unbootable`.
            ToolError: QEMU did not start a guest, or `stop` was set.
        """
        if reasons := unbootable(case):
            raise UsageError(f"this case cannot be booted: {reasons[0]}")
        rerun = None
        if self.via is not Via.FRESH and marker is Marker.ZONES and undeliverable(case) is None:
            result = self._quick(case, stop)
            if isinstance(result, BootResult):
                return result
            rerun = result
        booted = boot(
            case,
            self.image,
            qemu=self._qemu,
            timeout=timeout,
            marker=marker,
            delivery=delivery_of(case),
            stop=stop,
        )
        return replace(booted, rerun=rerun)

    def _quick(self, case: Case, stop: threading.Event | None) -> BootResult | str:
        """The result, or why there is none."""
        assert isinstance(case.machine, Q35)  # noqa: S101 (checked by `undeliverable`)
        machine, lost = host_machine(case.machine), ""
        for _ in range(_TRIES):
            if stop is not None and stop.is_set():
                raise ToolError("the boot was cancelled")
            begun = time.monotonic()
            try:
                with self._guest(machine) as guest:
                    result = guest.run(case, use=partial(self._result, case))
            except GuestLostError as error:
                lost = f"the guest was lost: {error}"
                continue
            except _NoGuestError as error:
                return str(error)
            if isinstance(result, BootResult):
                return replace(result, seconds=time.monotonic() - begun)
            return result or "time limit"
        return lost

    def _result(self, case: Case, ran: Ran) -> BootResult | str:
        if ran.console is None:
            return "the log is longer than the kernel's buffer"
        if "] Code: " in ran.console:
            return "an oops shows the code it met"
        assert isinstance(case.machine, Q35)  # noqa: S101 (checked by `undeliverable`)
        result = BootResult(
            console=ran.console,
            ended=BootEnd.MARKER,
            seconds=0.0,
            argv=(),
            kernel=self.image.name,
            memory=observe(ran.console, ran.read, machine=case.machine, image=self.image),
            via=self.via,
            delivery=Delivery.GUEST_MEMORY,
        )
        if ran.end in (RESTART, DEAD):
            died = klog.DIED.search(ran.console.encode()) is not None
            if ran.end == DEAD and not klog.DEAD.search(ran.console.encode()):
                return "died without last words"
            return replace(result, ended=BootEnd.PANIC if died else BootEnd.EXITED)
        if ran.end not in ENDS:
            return ran.end
        if Marker.ZONES.value not in ran.console:
            return "the log does not say that zones are set up"
        return result.to(Marker.ZONES)

    @contextmanager
    def _guest(self, machine: Q35) -> Iterator[_Guest]:
        """A guest for one case: one that is idle, or a new one; it is kept unless the case lost it."""
        with self._lock:
            at = next((i for i, (for_, _) in enumerate(self._idle) if for_ == machine), None)
            guest = None if at is None else self._idle.pop(at)[1]
            spare = [] if guest else self._idle[: max(0, len(self._idle) + self._busy + 1 - GUESTS_MAX)]
            self._idle = self._idle[len(spare) :]
            self._busy += 1
        try:
            for _, each in spare:
                each.close()
            guest = guest or self._start(machine)
            try:
                yield guest
            except BaseException:
                guest.close()
                raise
            with self._lock:
                if not self._closed:
                    self._idle.append((machine, guest))
                    return
            guest.close()
        finally:
            with self._lock:
                self._busy -= 1

    def _start(self, machine: Q35) -> _Guest:
        via = self.via
        try:
            return _START[via](machine, self.image, self._qemu)
        except ToolError as error:
            if self._fixed:
                raise ToolError(f"--boot-via {via}: {error}") from None
            with self._lock:
                first, self.via = self.via is via, Via.FRESH
            if first:
                self._note(f"{self.image.name}: booting fresh, which is slower: {via}: {error}")
            raise _NoGuestError(f"{via}: {error}") from None

    def abandon(self) -> None:
        """In a forked process: the guests are the parent's."""
        self._lock = threading.Lock()
        for _, guest in self._idle:
            guest.abandon()
        self._idle, self._busy = [], 0


class _NoGuestError(Exception):
    """A guest could not be started."""


_open: WeakSet[Boots] = WeakSet()


def _abandon() -> None:
    for boots in _open:
        boots.abandon()


os.register_at_fork(after_in_child=_abandon)


@lru_cache(maxsize=32)
def shared(image: KernelImage, via: str = AUTO, note: Callable[[str], None] = lambda _: None) -> Boots:
    """The `Boots` of this process for a kernel, closed when it ends.

    Raises:
        UsageError, ToolError: as `Boots`.
    """
    boots = Boots(image, via=via, note=note)
    atexit.register(boots.close)
    return boots


def problem(via: Via, image: KernelImage, qemu: Path) -> str | None:
    """Why `via` cannot work here, as far as can be told without starting a guest, or None."""
    if via is Via.FRESH:
        return None
    if not hasattr(os, "memfd_create"):
        return "booting needs Linux: memory files are not available here"
    try:
        _CHECK[via](image, qemu)
    except ToolError as error:
        return str(error)
    return None


def tried(via: Via, image: KernelImage, qemu: Path) -> str | None:
    """As `problem`, found out by running a case."""
    if (why := problem(via, image, qemu)) is not None:
        return why
    try:
        with Boots(image, via=via, qemu=qemu) as boots:
            return boots.boot(Case(machine=Q35(GIB)), timeout=60).rerun
    except ToolError as error:
        return str(error)


def _check_fork(image: KernelImage, qemu: Path) -> None:
    forkserver.probe(qemu)
    forkserver.trapping(image.path.read_bytes(), anatomy_for(image))


def _fork(machine: Q35, image: KernelImage, qemu: Path) -> _Guest:
    return forkserver.Server(machine, image, qemu=qemu, warm_with=_warm_with(machine))


def _snapshot(machine: Q35, image: KernelImage, qemu: Path) -> _Guest:
    return snapshot.Snapshot(machine, image, qemu=qemu)


_START: dict[Via, Callable[[Q35, KernelImage, Path], _Guest]] = {Via.FORK: _fork, Via.SNAPSHOT: _snapshot}
_CHECK: dict[Via, Callable[[KernelImage, Path], None]] = {
    Via.FORK: _check_fork,
    Via.SNAPSHOT: lambda image, _: snapshot.check(image),
}


def _warm_with(host: Q35) -> tuple[Case, ...]:
    """Cases that between them go most ways a kernel can: SRAT accepted, rejected, none; hot, mirrored."""
    machine = Q35(GIB) if host.memory == host.low_end else Q35(6 * GIB)
    end, half = machine.ram[-1].end, machine.memory // 2
    plain, hot = MemoryFlags.ENABLED, MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
    good = build_srat(
        (
            ProcessorAffinity(proximity_domain=0, apic_id=0),
            X2ApicAffinity(proximity_domain=1, x2apic_id=1),
            MemoryAffinity(proximity_domain=0, base=0, length=half, flags=plain),
            MemoryAffinity(proximity_domain=1, base=half, length=end - half, flags=hot),
        )
    )
    overlapping = build_srat(
        tuple(MemoryAffinity(proximity_domain=domain, base=0, length=end, flags=plain) for domain in (0, 1))
    )
    slit = encode_slit(build_slit([[10, 20], [20, 10]]))
    tables = encode_srat(good), slit
    return (
        Case(machine=machine, tables=tables, cmdline="movable_node"),
        Case(machine=replace(machine, initrd=MIB), tables=tables, cmdline="movable_node kernelcore=512M"),
        Case(machine=machine, tables=(encode_srat(overlapping),), cmdline="kernelcore=mirror"),
        Case(machine=machine, cmdline="movablecore=25% numa=off"),
    )
