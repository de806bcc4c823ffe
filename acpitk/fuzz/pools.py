"""Where the work of a campaign is done: in this process, in forked ones, or on a dask cluster.

A pool hands out `function(shared, item)` and gives back futures. A cluster needs `shared` to be picklable.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

from acpitk.errors import ToolError, UsageError

Work = Callable[[Any, Any], Any]
LOCAL = "local:"
"""`local:N` in place of an address: a cluster of N worker processes on this machine."""


class Pending(Protocol):
    """Work handed out."""

    def result(self) -> Any:
        """Wait for what it gives; what it raises is raised here."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A place to work.

    Args:
        submit: hand out `function(shared, item)`.
        workers: how many work at a time.
    """

    submit: Callable[[Work, Any], Pending]
    workers: int


@contextmanager
def pool(shared: object, *, jobs: int = 1, cluster: str | None = None) -> Iterator[Pool]:
    """The pool for `jobs` processes, or of the dask scheduler at the address `cluster`.

    Left early, it abandons what is under way.

    Raises:
        ToolError: a worker died, or there is no cluster.
    """
    if cluster is not None:
        with _dask(shared, cluster) as found:
            yield found
    elif jobs > 1:
        with _processes(shared, jobs) as found:
            yield found
    else:
        yield Pool(submit=lambda function, item: _Now(partial(function, shared, item)), workers=1)


@dataclass(frozen=True, slots=True)
class _Now:
    """Work that is done when its result is asked for."""

    result: Callable[[], Any]


_shared: Any
"""In a worker process: what all its work shares, inherited by fork, because oracles need not be picklable."""


@contextmanager
def _processes(shared: object, jobs: int) -> Iterator[Pool]:
    context = multiprocessing.get_context("fork")
    workers = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(shared,))
    try:
        yield Pool(submit=lambda function, item: workers.submit(_work, function, item), workers=jobs)
    except BrokenProcessPool:
        raise ToolError("a fuzzing worker process died: try --jobs 1 to see the reason") from None
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _begin(shared: object) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(function: Work, item: object) -> Any:
    return function(_shared, item)


@contextmanager
def _dask(shared: object, address: str) -> Iterator[Pool]:
    try:
        from distributed import Client, KilledWorker, LocalCluster
    except ImportError:
        raise ToolError("--dask needs dask: pip install 'acpitk[cluster]'") from None
    count = address.removeprefix(LOCAL)
    if address.startswith(LOCAL) and not (count.isdigit() and 0 < int(count) <= 256):
        raise UsageError(f"--dask {address}: use the address of a scheduler, or local:2 for two workers here")
    try:
        payload = pickle.dumps(shared)
    except Exception as error:
        raise UsageError(f"--dask: an oracle cannot be sent to another machine: {error}") from None
    with contextlib.ExitStack() as open_:
        try:
            if address.startswith(LOCAL):
                here = LocalCluster(n_workers=int(count), threads_per_worker=1, dashboard_address=None)
                client = open_.enter_context(Client(open_.enter_context(here)))
            else:
                client = open_.enter_context(Client(address, timeout="20s"))
        except (OSError, ValueError) as error:
            raise ToolError(f"--dask {address}: no dask scheduler answers there: {error}") from None
        try:
            yield Pool(
                submit=lambda function, item: client.submit(_remote, payload, function, item, pure=False),
                workers=max(1, sum(client.ncores().values())),
            )
        except KilledWorker as error:
            raise ToolError(f"--dask: workers died again and again at the same cases: {error}") from None


def _remote(payload: bytes, function: Work, item: object) -> Any:
    return function(_unpickled(payload), item)


@lru_cache(maxsize=2)
def _unpickled(payload: bytes) -> Any:
    return pickle.loads(payload)  # noqa: S301  # from the campaign that this cluster works for
