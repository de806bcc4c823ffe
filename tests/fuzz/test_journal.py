"""Laws of the journal: what is appended is read back, and a campaign goes on as if it had not stopped."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk.cli.oracles import model_oracle
from acpitk.corpus import load_corpus
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Found, Part
from acpitk.fuzz.journal import SqliteJournal, begin

SEEDS = tuple(s.case for _, s in load_corpus(Path(__file__).resolve().parents[2] / "corpus").cases)
CAMPAIGN = Campaign(
    seed=5,
    iterations=320,
    pool=16,
    generation=64,
    shard=20,
    seeds=SEEDS,
    oracles=(replace(model_oracle(["v6.1"]), minimise_budget=3),),
)


class Memory:
    """A journal that keeps what it was given."""

    def __init__(self) -> None:
        self.kept: list[Part] = []
        self.small: dict[str, Found] = {}

    def parts(self) -> list[Part]:
        return self.kept

    def append(self, part: Part) -> None:
        self.kept.append(part)

    def minimised(self) -> dict[str, Found]:
        return self.small

    def add_minimised(self, found: Found, seconds: float) -> None:
        self.small[found.finding.signature] = found


@pytest.fixture(scope="module")
def whole() -> tuple[Memory, CampaignResult]:
    memory = Memory()
    *_, result = CAMPAIGN.run(journal=memory)
    return memory, result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    begin(tmp_path / "j.sqlite", {"seed": 5})
    return tmp_path / "j.sqlite"


def test_what_is_appended_is_read_back(path: Path, whole: tuple[Memory, CampaignResult]) -> None:
    memory, result = whole
    with closing(SqliteJournal(path)) as journal:
        for part in memory.kept:
            journal.append(part)
        for found in memory.small.values():
            journal.add_minimised(found, 1.0)
    with closing(SqliteJournal(path)) as journal:
        assert list(journal.parts()) == memory.kept
        assert journal.minimised() == memory.small
        assert journal.started_with == {"seed": 5}
        assert journal.done == result.done == 320
    assert sum(len(part.news) for part in memory.kept) > 100
    assert sum(len(part.found) for part in memory.kept) >= len(result.found) > 10


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("stops", [(1,), (3, 5, 11), (16, 17), (18, 2, 3)], ids=str)
def test_a_campaign_goes_on_as_if_it_had_not_stopped(
    path: Path, whole: tuple[Memory, CampaignResult], stops: tuple[int, ...], jobs: int
) -> None:
    """Stopped after so many results that were not there before, with shards of another size each time."""
    for at, stop in enumerate(stops):
        with closing(SqliteJournal(path)) as journal:
            running = replace(CAMPAIGN, shard=20 - at).run(jobs=jobs, journal=journal)
            fresh = 0
            for result in running:
                fresh += not result.recalled
                if fresh == stop:
                    break
            running.close()
    with closing(SqliteJournal(path)) as journal:
        *_, result = CAMPAIGN.run(jobs=jobs, journal=journal)
    assert replace(result, seconds=0.0) == replace(whole[1], seconds=0.0)


def test_a_finished_campaign_is_recalled_without_work(
    path: Path, whole: tuple[Memory, CampaignResult]
) -> None:
    broken = replace(CAMPAIGN, oracles=(replace(CAMPAIGN.oracles[0], check=_never),))
    *_, result = broken.run(journal=whole[0])
    assert replace(result, seconds=0.0) == replace(whole[1], seconds=0.0)


def _never(case: object) -> list[object]:
    raise AssertionError("asked again")


def test_the_budget_may_grow(path: Path, whole: tuple[Memory, CampaignResult]) -> None:
    with closing(SqliteJournal(path)) as journal:
        for _ in replace(CAMPAIGN, iterations=150).run(journal=journal):
            pass
    with closing(SqliteJournal(path)) as journal:
        *_, result = CAMPAIGN.run(journal=journal)
    assert (result.done, result.pairs) == (320, whole[1].pairs)
    assert {f.finding.signature for f in result.found} == {f.finding.signature for f in whole[1].found}


def test_a_time_limit_counts_what_was_spent_before(path: Path) -> None:
    limited = replace(CAMPAIGN, iterations=None, max_seconds=3.0)
    with closing(SqliteJournal(path)) as journal:
        *_, first = limited.run(journal=journal)
        *_, second = limited.run(journal=journal)
    assert 0 < first.done == second.done


def test_one_at_a_time(path: Path) -> None:
    with closing(SqliteJournal(path)), pytest.raises(UsageError, match="another acpitk"):
        SqliteJournal(path)
    SqliteJournal(path).close()


def test_what_is_no_journal_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with pytest.raises(UsageError, match="no campaign"):
        SqliteJournal(path)
    for content in (b"", b"no database", bytes(4096)):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="not the journal"):
            SqliteJournal(path)
    path.unlink()
    begin(path, {})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = '9' WHERE key = 'format'")
    with pytest.raises(UsageError, match="newer acpitk"):
        SqliteJournal(path)
    with pytest.raises(UsageError, match="cannot begin"):
        begin(tmp_path / "absent" / "j.sqlite", {})


@pytest.mark.parametrize("data", [b"", b"\x00", b"x\x9c\x03\x00\x00\x00\x00\x01", "text"])
def test_a_damaged_part_is_one_clear_error(path: Path, data: bytes | str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO parts VALUES (0, 1, ?)", (data,))
    with closing(SqliteJournal(path)) as journal, pytest.raises(UsageError, match="damaged"):
        list(journal.parts())


def test_a_gap_is_one_clear_error(path: Path, whole: tuple[Memory, CampaignResult]) -> None:
    with closing(SqliteJournal(path)) as journal:
        journal.append(whole[0].kept[0])
        journal.append(whole[0].kept[2])
        with pytest.raises(UsageError, match="missing"):
            list(journal.parts())


def test_a_new_campaign_takes_the_place_of_an_old_one(
    path: Path, whole: tuple[Memory, CampaignResult]
) -> None:
    with closing(SqliteJournal(path)) as journal:
        journal.append(whole[0].kept[0])
        journal.finished = True
        assert journal.finished
    begin(path, {"seed": 6})
    with closing(SqliteJournal(path)) as journal:
        assert (journal.done, journal.finished, journal.started_with) == (0, False, {"seed": 6})
