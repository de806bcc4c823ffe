"""One boot as lanes of ranges over the physical address space, and their drawing in text.

Lanes: what firmware said (e820, SRAT), what was in use (reserved), what Linux made of it (nodes, zones,
memory blocks). `axis` gives RAM the room and squeezes large holes; a picture of any medium follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from rich.text import Text

from acpitk.kernel.prediction import EntryUse, EntryVerdict, Prediction
from acpitk.machine import Case, E820Type
from acpitk.outcome import Block, Outcome, Region
from acpitk.ranges import ADDRESS_LIMIT, MIB, format_size

_MAX_ISLANDS, _MAX_PIECES = 12, 8
_HOLE_SHARE = 24
"""A hole of more than this fraction of RAM is squeezed."""
_SQUEEZED = 0.05
_ROWS = 4
"""Rows a lane may take where its ranges overlap."""


class Mark(StrEnum):
    """What a range is; pictures colour by it."""

    RAM = "RAM"
    FIRMWARE = "not RAM"
    PLAIN = "not hot-pluggable"
    HOT = "hot-pluggable"
    IGNORED = "without effect"
    OWNER = "in use"
    MOVABLE = "ZONE_MOVABLE"
    REMOVABLE = "removable"
    KEPT = "not removable"
    UNCERTAIN = "not guaranteed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One range of a lane, half-open bytes; `short` is the label where there is little room."""

    start: int
    end: int
    label: str
    short: str
    mark: Mark
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        out: dict[str, Any] = {"start": self.start, "end": self.end, "label": self.label}
        out["mark"] = self.mark.value
        return out | {"detail": self.detail} if self.detail else out


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Ranges of one kind, ascending by start."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of the axis: bytes [start, end) take `share` of its length; `squeezed` ones not to scale."""

    start: int
    end: int
    share: float
    squeezed: bool


def firmware_lanes(case: Case, prediction: Prediction) -> Iterator[Lane]:
    """What firmware said: the e820 map, and the memory affinity entries as the kernel walked them."""
    e820 = (
        Bar(
            start=entry.start,
            end=entry.end,
            label=entry.type.value if entry.type is not E820Type.USABLE else "RAM",
            short=entry.type.value[0].upper(),
            mark=Mark.RAM if entry.type is E820Type.USABLE else Mark.FIRMWARE,
        )
        for entry in case.resolved().e820
    )
    yield _lane("e820", e820)
    yield _lane("SRAT", (_entry_bar(entry) for entry in prediction.entries if entry.length))


def outcome_lanes(outcome: Outcome, prediction: Prediction | None = None) -> Iterator[Lane]:
    """What the kernel did; with a prediction, memory in use has owners. A lane not observed is absent."""
    if prediction is not None:
        yield _lane("reserved", _owner_bars(prediction))
    elif outcome.reserved is not None:
        regions = ((r.start, r.end) for r in outcome.reserved)
        yield _lane("reserved", (_owner_bar(start, end, "reserved") for start, end in regions))
    if outcome.memory is not None:
        yield _lane("nodes", (_node_bar(region) for region in outcome.memory))
    if outcome.zones is not None:
        yield _lane(
            "zones",
            (
                Bar(
                    start=zone.start,
                    end=zone.end,
                    label=f"{zone.zone} {zone.nid}",
                    short=zone.zone[0],
                    mark=Mark.MOVABLE if zone.zone == "Movable" else Mark.PLAIN,
                    detail=f"node {zone.nid}, zone {zone.zone}",
                )
                for zone in outcome.zones
            ),
        )
    if outcome.blocks is not None:
        yield _lane("blocks", (_block_bar(run) for run in block_runs(outcome.blocks)))


def block_runs(blocks: Sequence[Block]) -> list[tuple[Block, int]]:
    """Neighbouring memory blocks that are alike but for their addresses: one wide block, and their count."""
    runs: list[tuple[Block, int]] = []
    for block in blocks:
        if runs and runs[-1][0].end == block.start:
            run, count = runs[-1]
            if replace(run, end=block.end) == replace(block, start=run.start):
                runs[-1] = (replace(run, end=block.end), count + 1)
                continue
        runs.append((block, 1))
    return runs


def axis(lanes: Iterable[Lane]) -> tuple[Segment, ...]:
    """The stretches of address space a picture of `lanes` shows, in order; shares sum to 1.

    RAM is to scale. A large hole is squeezed to a fixed width, in one piece for each range in it.
    """
    bars = [bar for lane in lanes for bar in lane.bars if bar.mark is not Mark.FIRMWARE]
    if not bars:
        return (Segment(start=0, end=ADDRESS_LIMIT, share=1.0, squeezed=True),)
    ram = _islands([(b.start, b.end) for b in bars if b.mark is Mark.RAM] or [(b.start, b.end) for b in bars])
    total = sum(end - start for start, end in ram)
    first, last = min(bar.start for bar in bars), max(bar.end for bar in bars)
    holes = [(low[1], high[0]) for low, high in pairwise(ram)]
    large = [hole for hole in holes if (hole[1] - hole[0]) * _HOLE_SHARE > total]
    large = sorted(large, key=lambda hole: hole[0] - hole[1])[: _MAX_ISLANDS - 1]
    low_end, high_end = (first, ram[0][0]), (ram[-1][1], last)
    outer = [span for span in (low_end, high_end) if (span[1] - span[0]) * _HOLE_SHARE > total]
    squeezed = sorted(piece for hole in (*large, *outer) for piece in _pieces(hole, bars, total // 64))
    bounds = {low_end[low_end in outer], max(high_end[0], high_end[high_end not in outer])}
    cuts = sorted({*bounds, *(edge for hole in large for edge in hole)})
    scaled = [span for span in pairwise(cuts) if span not in large]
    narrow = min(_SQUEEZED, 0.5 / len(squeezed)) if squeezed else 0.0
    shown, room = sum(end - start for start, end in scaled), 1.0 - narrow * len(squeezed)
    return tuple(
        sorted(
            (
                *(Segment(start=s, end=e, share=room * (e - s) / shown, squeezed=False) for s, e in scaled),
                *(Segment(start=s, end=e, share=narrow, squeezed=True) for s, e in squeezed),
            ),
            key=lambda segment: segment.start,
        )
    )


def place(segments: Sequence[Segment], address: int) -> float:
    """Where an address is on the axis, 0 to 1; what the axis leaves out is at the nearest shown place."""
    at = 0.0
    for segment in segments:
        if address < segment.start:
            return at
        if address < segment.end:
            return at + segment.share * ((address - segment.start) / (segment.end - segment.start))
        at += segment.share
    return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """The characters of a drawing: ends and fill of a bar by mark, and the rest."""

    plain: str
    hot: str
    ram: str
    firmware: str
    ignored: str
    single: str
    removable: str
    kept: str
    uncertain: str
    several: str
    squeezed: str


UNICODE = Glyphs(
    plain="├─┤",
    hot="╞═╡",
    ram="▐█▌",
    firmware="░░░",
    ignored="┝╌┥",
    single="│",
    removable="■",
    kept="□",
    uncertain="▫",
    several="◪",
    squeezed="╱",  # noqa: RUF001
)
ASCII = Glyphs(
    plain="|-|",
    hot="[=]",
    ram="###",
    firmware=":::",
    ignored="(.)",
    single="|",
    removable="#",
    kept="o",
    uncertain=".",
    several="%",
    squeezed="/",
)

_STYLES = {
    Mark.RAM: "bold",
    Mark.FIRMWARE: "dim",
    Mark.PLAIN: "cyan",
    Mark.HOT: "yellow",
    Mark.IGNORED: "dim",
    Mark.OWNER: "magenta",
    Mark.MOVABLE: "green",
    Mark.REMOVABLE: "green",
    Mark.KEPT: "red",
    Mark.UNCERTAIN: "blue",
}


def draw(lanes: Sequence[Lane], *, width: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """The map, at most `width` columns wide, one line each, with a legend of what it uses."""
    segments = axis(lanes)
    margin = max((len(lane.name) for lane in lanes), default=0) + 1
    columns = max(width - margin, 20)
    lines = [Text(" " * margin).append(_ruler(lanes, segments, columns), "dim")]
    for lane in lanes:
        for index, row in enumerate(_rows(lane, segments, columns, glyphs)):
            lines.append(Text((lane.name if index == 0 else "").ljust(margin), "bold").append_text(row))
    lines.append(Text(" " * margin).append_text(_squeeze_row(segments, columns, glyphs)))
    for items in _legend(lanes, segments, glyphs):
        lines += [Text(line, "dim") for line in _wrapped(items, width)]
    return lines


def address(value: int) -> str:
    """An address in few characters: whole MiB with a unit, else hexadecimal."""
    return format_size(value) if value % MIB == 0 and value < ADDRESS_LIMIT else f"{value:#x}"


def owner_letters(bars: Iterable[Bar]) -> dict[str, str]:
    """A letter for each owner of memory in use, in order of appearance."""
    letters: dict[str, str] = {}
    for owner in dict.fromkeys(bar.label for bar in bars):
        wanted = [c for c in owner.upper() if c.isascii() and c.isalnum()]
        free = (c for c in (*wanted, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") if c not in letters.values())
        letters[owner] = next(free, "*")
    return letters


def _lane(name: str, bars: Iterable[Bar]) -> Lane:
    return Lane(name=name, bars=tuple(sorted(bars, key=lambda bar: (bar.start, bar.end))))


def _entry_bar(entry: EntryVerdict) -> Bar:
    used = entry.use in (EntryUse.ACCEPTED, EntryUse.NOT_RAM)
    node = "no node" if entry.nid is None else f"node {entry.nid}"
    return Bar(
        start=entry.base,
        end=min(entry.base + entry.length, ADDRESS_LIMIT),
        label=f"domain {entry.firmware_pxm}{' hot' if entry.hotplug else ''}",
        short=str(entry.firmware_pxm),
        mark=(Mark.HOT if entry.hotplug else Mark.PLAIN) if used else Mark.IGNORED,
        detail=f"entry at byte {entry.offset:#x}, {node}, {entry.use.value}",
    )


def _owner_bars(prediction: Prediction) -> Iterator[Bar]:
    held = sorted((row.start, row.end, row.owner) for row in prediction.owners)
    held += sorted((a.start, a.end, _class(a.purpose)) for a in prediction.allocations)
    for start, end, owner in dict.fromkeys(held):
        yield _owner_bar(start, end, owner)


def _class(purpose: str) -> str:
    """The kind of an allocation: `NODE_DATA(3)` is `NODE_DATA`."""
    return purpose.partition("(")[0]


def _owner_bar(start: int, end: int, owner: str) -> Bar:
    return Bar(start=start, end=end, label=owner, short="", mark=Mark.OWNER)


def _node_bar(region: Region) -> Bar:
    name = "no node" if region.nid is None else f"node {region.nid}"
    hot = "hotplug" in region.flags
    return Bar(
        start=region.start,
        end=region.end,
        label=f"{name}{' hot' if hot else ''}",
        short="?" if region.nid is None else str(region.nid),
        mark=Mark.HOT if hot else Mark.PLAIN,
    )


def _block_bar(run: tuple[Block, int]) -> Bar:
    block, count = run
    mark = Mark.REMOVABLE if block.removable else Mark.KEPT if block.certain else Mark.UNCERTAIN
    home = "no single zone" if block.zone is None else f"node {block.nid}, zone {block.zone}"
    each = format_size((block.end - block.start) // count)
    return Bar(
        start=block.start,
        end=block.end,
        label=block.reason,
        short="",
        mark=mark,
        detail=f"{count} x {each}, {home}, {mark.value}",
    )


def _islands(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _pieces(hole: tuple[int, int], bars: Iterable[Bar], least: int) -> list[tuple[int, int]]:
    """The hole cut where ranges begin and end in it, `least` bytes apart; whole where those are many."""
    cuts = [hole[0]]
    for edge in sorted({edge for bar in bars for edge in (bar.start, bar.end)}):
        if cuts[-1] + least < edge < hole[1] - least:
            cuts.append(edge)
    return [hole] if len(cuts) > _MAX_PIECES else list(pairwise([*cuts, hole[1]]))


def _cells(segments: Sequence[Segment], bar: Bar, columns: int) -> tuple[int, int]:
    first = min(round(place(segments, bar.start) * columns), columns - 1)
    return first, max(first + 1, round(place(segments, bar.end) * columns))


def _rows(lane: Lane, segments: Sequence[Segment], columns: int, glyphs: Glyphs) -> list[Text]:
    if any(bar.mark in (Mark.REMOVABLE, Mark.KEPT, Mark.UNCERTAIN) for bar in lane.bars):
        return [_block_row(lane, segments, columns, glyphs)]
    if any(bar.mark is Mark.OWNER for bar in lane.bars):
        return [_owner_row(lane, segments, columns)]
    rows: list[list[Bar]] = []
    for bar in lane.bars:
        free = next((row for row in rows if row[-1].end <= bar.start), None)
        if free is not None:
            free.append(bar)
        elif len(rows) < _ROWS:
            rows.append([bar])
    return [_bar_row(row, segments, columns, glyphs) for row in rows] or [Text("-", "dim")]


def _bar_row(bars: Iterable[Bar], segments: Sequence[Segment], columns: int, glyphs: Glyphs) -> Text:
    cells: list[tuple[str, str]] = [(" ", "")] * columns
    placed = [(_cells(segments, bar, columns), bar) for bar in bars]
    for (first, last), bar in sorted(placed, key=lambda item: item[0][0] - item[0][1]):
        cells[first:last] = [(c, _STYLES[bar.mark]) for c in _bar_text(bar, last - first, glyphs)]
    return _joined(cells)


def _bar_text(bar: Bar, width: int, glyphs: Glyphs) -> str:
    ends = {
        Mark.RAM: glyphs.ram,
        Mark.FIRMWARE: glyphs.firmware,
        Mark.HOT: glyphs.hot,
        Mark.MOVABLE: glyphs.hot,
        Mark.IGNORED: glyphs.ignored,
    }.get(bar.mark, glyphs.plain)
    if width == 1:
        return glyphs.single if bar.mark not in (Mark.RAM, Mark.FIRMWARE) else ends[1]
    label = next((f" {text} " for text in (bar.label, bar.short) if len(text) + 4 <= width), "")
    return ends[0] + label.center(width - 2, ends[1]) + ends[2]


def _owner_row(lane: Lane, segments: Sequence[Segment], columns: int) -> Text:
    letters = owner_letters(lane.bars)
    cells: list[tuple[str, str]] = [(" ", "")] * columns
    placed = [(_cells(segments, bar, columns), letters[bar.label]) for bar in lane.bars]
    for (first, last), letter in sorted(placed, key=lambda item: item[0][0] - item[0][1]):
        for at in range(first, last):
            alone = cells[at][0] in (" ", letter) or last - first > 1
            cells[at] = (letter if alone else "+", _STYLES[Mark.OWNER])
    return _joined(cells)


def _block_row(lane: Lane, segments: Sequence[Segment], columns: int, glyphs: Glyphs) -> Text:
    marks: list[set[Mark]] = [set() for _ in range(columns)]
    for bar in lane.bars:
        for at in range(*_cells(segments, bar, columns)):
            marks[at].add(bar.mark)
    drawn = {Mark.REMOVABLE: glyphs.removable, Mark.KEPT: glyphs.kept, Mark.UNCERTAIN: glyphs.uncertain}
    cells = []
    for here in marks:
        if Mark.REMOVABLE in here and len(here) > 1:
            cells.append((glyphs.several, "yellow"))
        else:
            mark = next((m for m in (Mark.KEPT, Mark.UNCERTAIN, Mark.REMOVABLE) if m in here), None)
            cells.append((drawn[mark], _STYLES[mark]) if mark else (" ", ""))
    return _joined(cells)


def _joined(cells: Iterable[tuple[str, str]]) -> Text:
    text = Text()
    for char, style in cells:
        text.append(char, style or None)
    text.rstrip()
    return text


def _ruler(lanes: Sequence[Lane], segments: Sequence[Segment], columns: int) -> str:
    """Addresses over the places they mark, as far as there is room: ends, stretches, then ranges."""
    line = [" "] * columns
    scaled = [segment.start for segment in segments if not segment.squeezed]
    squeezed = [segment.start for segment in segments if segment.squeezed]
    starts = [bar.start for lane in lanes if lane.name == "SRAT" for bar in lane.bars]
    final = address(segments[-1].end)
    line[columns - len(final) :] = final
    for value in dict.fromkeys((segments[0].start, *scaled, *squeezed, *starts)):
        label, at = address(value), round(place(segments, value) * columns)
        around = line[max(at - 1, 0) : at + len(label) + 1]
        if at + len(label) < columns and set(around) == {" "}:
            line[at : at + len(label)] = label
    return "".join(line)


def _squeeze_row(segments: Sequence[Segment], columns: int, glyphs: Glyphs) -> Text:
    cells = [" "] * columns
    for segment in segments:
        if segment.squeezed:
            first = round(place(segments, segment.start) * columns)
            last = max(first + 1, round((place(segments, segment.start) + segment.share) * columns))
            cells[first:last] = glyphs.squeezed * (last - first)
    return Text("".join(cells[:columns]).rstrip(), "dim")


def _legend(lanes: Sequence[Lane], segments: Sequence[Segment], glyphs: Glyphs) -> Iterator[list[str]]:
    used = {bar.mark for lane in lanes for bar in lane.bars}
    signs = {
        Mark.HOT: glyphs.hot,
        Mark.MOVABLE: glyphs.hot,
        Mark.IGNORED: glyphs.ignored,
        Mark.FIRMWARE: glyphs.firmware[:1],
        Mark.REMOVABLE: glyphs.removable,
        Mark.KEPT: glyphs.kept,
        Mark.UNCERTAIN: glyphs.uncertain,
    }
    if {Mark.HOT, Mark.MOVABLE} <= used:
        del signs[Mark.MOVABLE]
    named = [f"{sign} {mark.value}" for mark, sign in signs.items() if mark in used]
    if {Mark.REMOVABLE, Mark.KEPT} <= used or {Mark.REMOVABLE, Mark.UNCERTAIN} <= used:
        named.append(f"{glyphs.several} both")
    if any(segment.squeezed for segment in segments):
        named.append(f"{glyphs.squeezed} not to scale")
    yield named
    owners = [bar for lane in lanes for bar in lane.bars if bar.mark is Mark.OWNER]
    if owners:
        letters = owner_letters(owners)
        yield ["in use:", *(f"{letter} {owner}" for owner, letter in letters.items()), "+ several"]


def _wrapped(items: Iterable[str], width: int) -> list[str]:
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines
