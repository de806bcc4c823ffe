"""A campaign on a dask cluster of two worker processes: the same findings as here, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from acpitk.cli.oracles import model_oracle
from acpitk.corpus import load_corpus
from acpitk.errors import ToolError, UsageError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Oracle

SEEDS = tuple(s.case for _, s in load_corpus(Path(__file__).resolve().parents[2] / "corpus").cases)
CAMPAIGN = Campaign(
    seed=11,
    iterations=1500,
    pool=16,
    shard=24,
    seeds=SEEDS,
    oracles=(replace(model_oracle(["v6.1"]), minimise_budget=4),),
)


@pytest.fixture(scope="module")
def here() -> CampaignResult:
    *_, result = CAMPAIGN.run()
    return replace(result, seconds=0.0)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as found:
        yield found


def test_a_cluster_finds_the_same(cluster: LocalCluster, here: CampaignResult) -> None:
    *_, result = CAMPAIGN.run(cluster=cluster.scheduler_address)
    assert replace(result, seconds=0.0) == here


def test_a_worker_killed_in_the_middle_loses_nothing(cluster: LocalCluster, here: CampaignResult) -> None:
    with Client(cluster.scheduler_address) as client:
        victims = sorted(client.run(os.getpid).values())
    assert len(set(victims)) == 2
    for result in CAMPAIGN.run(cluster=cluster.scheduler_address):
        if victims and result.done >= 200:
            os.kill(victims.pop(), signal.SIGKILL)
    assert victims == []
    assert replace(result, seconds=0.0) == here


def test_what_cannot_be_sent_or_reached_is_one_clear_error(cluster: LocalCluster) -> None:
    unsendable = replace(CAMPAIGN, oracles=(Oracle(name="local", check=lambda case: []),))
    with pytest.raises(UsageError, match="cannot be sent"):
        next(unsendable.run(cluster=cluster.scheduler_address))
    with pytest.raises(UsageError, match="local:2"):
        next(CAMPAIGN.run(cluster="local:many"))
    with pytest.raises(ToolError, match="no dask scheduler"):
        next(CAMPAIGN.run(cluster="no-such-protocol://here"))
