"""`acpitk fuzz` after an interruption: nothing found is lost, and it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from acpitk.cli import run
from acpitk.corpus import load_corpus
from acpitk.fuzz.journal import SqliteJournal

FUZZ = ("fuzz", "--seed", "7", "--out", "found")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run((*arguments, "--json")) == 1
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document | {"seconds": 0}


def _findings(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.glob("*.json")}


def _signatures(directory: Path) -> set[str]:
    found = load_corpus(directory)
    assert found.problems == ()
    return {signature for _, stored in found.cases for signature in stored.findings}


def test_killed_at_20_random_moments_it_loses_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, done, known, to_begin = Random(20), 0, set[str](), 0.0
    arguments = (*FUZZ, "--jobs", "2", "--iterations", "1000000")
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "acpitk", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        started = time.monotonic()
        if not to_begin:  # the first one is killed when there are findings; the others around that moment
            while not list(here.glob("found/*.json")) and time.monotonic() < started + 60:
                time.sleep(0.02)
            to_begin = time.monotonic() - started
        else:
            time.sleep(rng.uniform(0.2, 2) * to_begin)
        assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        with closing(SqliteJournal(Path("found/campaign/journal.sqlite"))) as journal:
            before, done = done, journal.done
            in_journal = {f.finding.signature for part in journal.parts() for f in part.found}
        assert before <= done
        assert known <= _signatures(Path("found")) <= in_journal
        known = _signatures(Path("found"))
    assert done > 0
    assert known
    budget = ("--iterations", str(done + 300))
    resumed = _document(capsys, "fuzz", "--resume", "found", *budget)
    whole = _document(capsys, "fuzz", "--seed", "7", "--out", "whole", *budget)
    assert _findings(Path("found")) == _findings(Path("whole"))
    assert json.loads(json.dumps(resumed).replace("found/", "whole/")) == whole


def test_workers_do_not_outlive_a_killed_campaign(here: Path) -> None:
    arguments = (*FUZZ, "--jobs", "2", "--iterations", "1000000")
    process = subprocess.Popen([sys.executable, "-m", "acpitk", *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(here.glob("found/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _interrupt(*arguments: str) -> None:
    """Run until there are findings, then as Ctrl-C ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "acpitk", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list(Path().glob("found/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err


def test_the_same_command_goes_on_and_another_one_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _interrupt(*FUZZ, "--time", "1h")
    with closing(SqliteJournal(Path("found/campaign/journal.sqlite"))) as journal:
        done = journal.done
    for other, named in (
        (("--seed", "8"), "other seed"),
        (("--kernel", "v7.3"), "other kernels"),
        (("--select", "POL-"), "other select"),
        (("--from", "found"), "other seed cases"),
    ):
        assert run((*FUZZ, *other)) == 2
        assert named in (err := capsys.readouterr().err)
        assert err.count("\n") == 1
    assert run((*FUZZ, "--iterations", str(done + 10))) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{done + 10} cases")
    assert f"going on with the campaign in found after {done} cases" in err
    # It is finished: the command begins again.
    assert run((*FUZZ, "--iterations", "60")) == 1
    out, err = capsys.readouterr()
    assert (out.startswith("60 cases"), err) == (True, "")


def test_resume_knows_the_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--kernel", "v6.1,v7.3", "--ignore", "POL-MEMORYLESS", "--generation", "50")
    first = _document(capsys, *FUZZ, "--iterations", "100", *arguments)
    assert _document(capsys, "fuzz", "--resume", "found") == first
    more = _document(capsys, "fuzz", "--resume", "found", "--iterations", "200", "--jobs", "2")
    assert more["iterations"] == 200
    whole = ("fuzz", "--seed", "7", "--out", "whole", "--iterations", "200", *arguments)
    assert {f["signature"] for f in _document(capsys, *whole)["findings"]} == {
        f["signature"] for f in more["findings"]
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--resume", "absent"), "no campaign was begun"),
        (("--resume", "found", "--seed", "8"), "has seed 7, not 8"),
        (("--resume", "found", "--kernel", "v7.3"), "kernels"),
        (("--resume", "found", "--out", "elsewhere"), "leave them out"),
        (("--resume", "found", "--from", "case.json"), "leave them out"),
        (("--resume", "broken"), "not the journal"),
        (("--out", "broken"), "not the journal"),
        (("--out", "other", "--time", "10 minutes"), "--time"),
        (("--out", "other", "--time", "0"), "--time"),
        (("--out", "other", "--dask", "local:0"), "local:2"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_gone_on_with_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    assert run((*FUZZ, "--iterations", "40")) == 1
    (here / "broken" / "campaign").mkdir(parents=True)
    (here / "broken" / "campaign" / "journal.sqlite").write_text("no database" * 1000)
    capsys.readouterr()
    assert run(("fuzz", *arguments)) == 2
    out, err = capsys.readouterr()
    assert named in err
    assert (out, err.count("\n")) == ("", 1)


def test_a_time_ends_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = _document(capsys, *FUZZ, "--time", "0.5s", "--generation", "32")
    assert 0 < document["iterations"] < 100_000
    again = _document(capsys, "fuzz", "--resume", "found")["iterations"]
    assert 0 <= again - document["iterations"] <= 32  # its last moments may be left
    assert _document(capsys, *FUZZ, "--time-limit", "600", "--iterations", "20")["iterations"] == 20


def test_a_cluster_gives_the_same_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _document(capsys, *FUZZ, "--iterations", "400")
    _document(capsys, "fuzz", "--seed", "7", "--iterations", "400", "--out", "far", "--dask", "local:2")
    assert _findings(Path("found")) == _findings(Path("far"))


def test_verbose_speaks_where_stderr_is_no_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("acpitk.cli.fuzz._SAY_EVERY", 0.0)
    assert run((*FUZZ, "--iterations", "100", "-v")) == 1
    err = capsys.readouterr().err
    assert "100/100 cases" in err
    assert "behaviours" in err
    assert run((*FUZZ, "--iterations", "100")) == 1
    assert capsys.readouterr().err == ""
