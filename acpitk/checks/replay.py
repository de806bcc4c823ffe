"""Every boot-time allocation of a real boot, asked of the model's memblock again.

`memblock=debug` prints each request and the reservation that answers it. Starting from the first dump of
memblock the same requests must get the same addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from acpitk.kernel.memblock import FLAG_NAMES, NO_NID, Memblock, Row
from acpitk.kernel.prediction import EntryUse, Prediction
from acpitk.klog import FirmwareFacts, MemblockCall
from acpitk.outcome import Outcome, Region
from acpitk.ranges import PAGE_SIZE

_ANSWER = "memblock_alloc_range_nid"
_DISTANCES = "numa_alloc_distance"
_CACHE_LINE = 64
_BITS = {name: bit for bit, name in FLAG_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One request: what the kernel got and what the model's memblock gives; 0 is no memory.

    Args:
        request: the call as printed; its reservation, where the kernel does not print the request.
        kernel, model: physical addresses, bytes.
    """

    request: MemblockCall
    kernel: int
    model: int

    @property
    def agrees(self) -> bool:
        """Whether both got the same address."""
        return self.kernel == self.model


def replay(
    trace: Sequence[MemblockCall],
    facts: FirmwareFacts,
    booted: Outcome,
    prediction: Prediction,
    *,
    max_numnodes: int,
) -> list[Replayed]:
    """Ask the model's memblock every request of a boot, in order.

    Args:
        trace: `klog.memblock_trace` of the console.
        facts: its first memblock dump.
        booted: the parsed console; its memory rows are memblock.memory once NUMA init is done.
        prediction: for the allocator's options and the hotplug marks while the SRAT is parsed.
        max_numnodes: MAX_NUMNODES, which as a node means any (memblock_alloc_range_nid).
    """
    if facts.memory is None or facts.reserved is None:
        return []
    mb = Memblock(
        skips_hotplug=prediction.skips_hotplug,
        bottom_up=prediction.bottom_up,
        marks_kernel=False,
    )
    mb.memory, mb.reserved = _rows(facts.memory), _rows(facts.reserved)
    mb.reserved_max = mb.memory_max = 1 << 30
    calls = trace[_after_setup(trace) :]
    out: list[Replayed] = []
    node_data = {node.start: node.nid for node in booted.node_data or ()}
    pg_data = {node.end - node.start for node in booted.node_data or ()}
    numa_done = answered = False
    for index, call in enumerate(calls):
        if call.call in ("add", "remove"):
            continue
        if call.call == "free":
            mb.free(call.start, call.end)
        elif call.call != "reserve":
            if call.caller == _DISTANCES:
                _mark(mb, prediction)
            following = calls[index + 1] if index + 1 < len(calls) else None
            answered = following is not None and _answers(following, call)
            out.append(
                Replayed(
                    request=call,
                    kernel=following.start if answered and following is not None else 0,
                    model=_ask(mb, call, max_numnodes),
                )
            )
        else:
            if call.caller == _ANSWER and not answered:
                nid = node_data.get(call.start)
                if nid is not None and not numa_done and booted.memory is not None:
                    mb.memory, mb.bottom_up, numa_done = _rows(booted.memory), False, True
                memoryless = nid is None and call.end - call.start in pg_data
                out.append(_unprinted(mb, call, NO_NID if memoryless else nid))
            mb.reserve(call.start, call.end)
            answered = False
    return out


def _answers(call: MemblockCall, request: MemblockCall) -> bool:
    """Whether `call` is the reservation that meets `request`; one that failed is followed by another's."""
    return call.call == "reserve" and call.caller == _ANSWER and call.end - call.start == request.size


def _after_setup(trace: Sequence[MemblockCall]) -> int:
    """Index of the first call after e820__memblock_setup()."""
    last = max((i for i, call in enumerate(trace) if call.call == "add"), default=-1)
    return last + 1


def _ask(mb: Memblock, call: MemblockCall, max_numnodes: int) -> int:
    """memblock_alloc_range_nid(), and the second try of memblock_alloc_internal()."""
    end = call.end if call.end > 1 else 0
    nid = NO_NID if call.nid is None or call.nid == max_numnodes else call.nid
    nids = [nid] if nid == NO_NID or "exact_nid" in call.call else [nid, NO_NID]
    starts = [call.start] if call.call == "memblock_phys_alloc_range" else [call.start, 0]
    for start in starts:
        for wanted in nids:
            if found := mb.find(call.size, call.align, start, end, wanted):
                return found
    return 0


def _unprinted(mb: Memblock, call: MemblockCall, nid: int | None) -> Replayed:
    """memblock_phys_alloc_try_nid() of a pg_data_t (`nid`; NO_NID where that node has no memory), or 5.10's
    memblock_phys_alloc_range()."""
    size = call.end - call.start
    if nid is None:
        model = mb.find(size, PAGE_SIZE, 0, 0, NO_NID)
    else:
        model = mb.find(size, _CACHE_LINE, 0, 0, nid) or mb.find(size, _CACHE_LINE, 0, 0, NO_NID)
    return Replayed(request=call, kernel=call.start, model=model)


def _mark(mb: Memblock, prediction: Prediction) -> None:
    for entry in prediction.entries:
        if entry.hotplug and entry.use in (
            EntryUse.ACCEPTED,
            EntryUse.WRAPPED,
            EntryUse.EMPTY,
            EntryUse.NOT_RAM,
        ):
            mb.mark_hotplug(entry.base, entry.length)


def _rows(regions: Iterable[Region]) -> list[Row]:
    return [
        (
            region.start,
            region.end,
            NO_NID if region.nid is None else region.nid,
            sum(_BITS.get(flag, 0) for flag in region.flags),
        )
        for region in regions
    ]
