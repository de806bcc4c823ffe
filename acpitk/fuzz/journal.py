"""The journal of a campaign: everything it did, in one SQLite file that survives a kill at any moment.

A campaign appends its parts in order and, at the end, its minimised findings; each is one transaction.
Whoever opens the file later reads the parts back and goes on behind the last one. One process at a time has
it open.

Tables: `meta(key, value)` with the JSON of what the campaign was started with, `parts(start, stop, data)` and
`minimised(signature, data)`; `data` is JSON, deflated.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acpitk.checks.finding import Finding, Severity
from acpitk.errors import AcpitkError, UsageError
from acpitk.fuzz.campaign import Found, Part
from acpitk.fuzz.feedback import News
from acpitk.machine import case_from_json

JOURNAL = Path("campaign", "journal.sqlite")
"""Where it is in the directory of `fuzz --out`."""
_FORMAT = "1"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE parts (start INTEGER PRIMARY KEY, stop INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE minimised (signature TEXT PRIMARY KEY, seconds REAL NOT NULL, data BLOB NOT NULL);
"""


def begin(path: Path, started_with: Mapping[str, Any]) -> None:
    """Make a journal without parts, whole or not at all, in place of one that is there.

    Args:
        path: the file; its directory exists.
        started_with: what the campaign is started with, as JSON.

    Raises:
        UsageError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    meta = {"format": _FORMAT, "started_with": json.dumps(started_with), "finished": ""}
    try:
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new)) as db:
            db.executescript(_SCHEMA)
            with db:
                db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        for left in ("-wal", "-shm"):
            path.with_name(path.name + left).unlink(missing_ok=True)
        new.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"{path}: cannot begin a campaign there: {error}") from None


class SqliteJournal:
    """A `campaign.Journal` in a file that `begin` made. To be closed, best with `contextlib.closing`."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            UsageError: there is none, or it is in use or damaged.
        """
        self._path = path
        if not path.is_file():
            raise UsageError(f"{path}: no campaign was begun there")
        self._db = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            # With WAL a commit survives the death of the process, and the file a crash of the machine.
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
            version = self._meta("format")
        except sqlite3.Error as error:
            self._db.close()
            if "locked" in str(error):
                raise UsageError(f"{path}: another acpitk is working on this campaign") from None
            raise UsageError(f"{path}: not the journal of a campaign: {error}") from None
        if version != _FORMAT:
            self._db.close()
            raise UsageError(f"{path}: format {version!r} is not {_FORMAT}: written by a newer acpitk?")

    def close(self) -> None:
        """Close the file; what was appended stays."""
        self._db.close()

    @property
    def started_with(self) -> dict[str, Any]:
        """What the campaign was started with."""
        out: dict[str, Any] = json.loads(self._meta("started_with"))
        return out

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return bool(self._meta("finished"))

    @finished.setter
    def finished(self, value: bool) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'finished'", ("yes" if value else "",))

    @property
    def done(self) -> int:
        """Iterations done."""
        return self._db.execute("SELECT max(stop) FROM parts").fetchone()[0] or 0

    def parts(self) -> Iterator[Part]:
        """What was appended, in order.

        Raises:
            UsageError: what is there was not written by `append`.
        """
        at = 0
        for start, stop, data in self._db.execute("SELECT start, stop, data FROM parts ORDER BY start"):
            if start != at:
                raise UsageError(f"{self._path}: iterations {at} to {start} are missing")
            part = _part(self._read(data), f"{self._path}: iteration {start}")
            yield part
            at = stop

    def append(self, part: Part) -> None:
        """Keep a part; when this returns, it is kept."""
        document = {name: getattr(part, name) for name in Part.__slots__} | {
            "news": [
                {
                    "iteration": news.iteration,
                    "behaviour": sorted(news.behaviour),
                    "case": news.case.to_json(),
                    "mutators": news.mutators,
                }
                for news in part.news
            ],
            "found": [_found_json(found) for found in part.found],
        }
        self._db.execute("INSERT INTO parts VALUES (?, ?, ?)", (part.start, part.stop, _data(document)))

    def minimised(self) -> dict[str, Found]:
        """What was minimised, by signature.

        Raises:
            UsageError: what is there was not written by `add_minimised`.
        """
        rows = self._db.execute("SELECT signature, data FROM minimised ORDER BY signature")
        return {signature: _found(self._read(data), f"{self._path}: {signature}") for signature, data in rows}

    def add_minimised(self, found: Found, seconds: float) -> None:
        """Keep a finding that the minimiser is through with."""
        row = found.finding.signature, seconds, _data(_found_json(found))
        self._db.execute("INSERT OR REPLACE INTO minimised VALUES (?, ?, ?)", row)

    def _meta(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def _read(self, data: bytes) -> Any:
        try:
            return json.loads(zlib.decompress(data))
        except (ValueError, TypeError, zlib.error) as error:
            raise UsageError(f"{self._path}: damaged: {error}") from None


def _data(document: object) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def _found_json(found: Found) -> dict[str, Any]:
    out = {name: getattr(found, name) for name in Found.__slots__}
    return out | {"finding": asdict(found.finding), "case": found.case.to_json()}


def _part(document: Any, source: str) -> Part:
    try:
        news = tuple(
            News(
                iteration=each["iteration"],
                behaviour=frozenset(each["behaviour"]),
                case=case_from_json(each["case"], source=source),
                mutators=tuple(each["mutators"]),
            )
            for each in document["news"]
        )
        found = tuple(_found(each, source) for each in document["found"])
        return Part(**document | {"signatures": tuple(document["signatures"]), "news": news, "found": found})
    except (TypeError, KeyError, ValueError, AcpitkError) as error:
        raise UsageError(f"{source}: damaged: {error}") from None


def _found(document: Any, source: str) -> Found:
    try:
        finding: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document["finding"].items()
        }
        finding["severity"] = Severity(finding["severity"])
        return Found(
            **document
            | {
                "finding": Finding(**finding),
                "case": case_from_json(document["case"], source=source),
                "mutators": tuple(document["mutators"]),
                "kernels": tuple(document["kernels"]),
            }
        )
    except (TypeError, KeyError, ValueError, AcpitkError) as error:
        raise UsageError(f"{source}: damaged: {error}") from None
