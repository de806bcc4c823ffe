"""QEMU as a process group of its own, which cannot outlive this process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO

from acpitk.errors import ToolError

_WATCHED = """(read -r _ <"$0"; kill -9 0) &
while [ "$1" != -- ]; do export "$1"; shift; done
shift
exec "$@"
"""
"""A shell that becomes its arguments, after settings of the environment and `--`. It leaves a watcher behind:
when nobody holds the other end of the pipe `$0` any more, that kills the whole process group."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Process:
    """A running program and all it started."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        fds: Sequence[int] = (),
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `argv` with the descriptors `fds` kept open and `env` added to the environment.

        A signal that comes meanwhile is acted on once the program can be ended, and has been.

        Raises:
            ToolError: it does not start.
        """
        if shutil.which(argv[0]) is None:
            raise ToolError(f"{argv[0]} does not start: there is no such program")
        settings = [f"{name}={value}" for name, value in (env or {}).items()]
        watched, self._held = os.pipe()
        try:
            with _signals_noted() as came:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCHED, f"/proc/self/fd/{watched}", *settings, "--", *argv],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=[watched, *fds],
                    start_new_session=True,
                )
        except OSError as error:
            self.abandon()
            raise ToolError(f"{argv[0]} does not start: {error.strerror}") from None
        finally:
            os.close(watched)
        try:
            for number in came:
                signal.raise_signal(number)
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """The program's process ID."""
        return self._process.pid

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> int:
        """Kill it with all it started, if that was not done; its status as `subprocess` tells it."""
        if self._held >= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.abandon()
        return self._process.wait()

    def abandon(self) -> None:
        """Let go of it in a process that only inherited it."""
        if self._held >= 0:
            os.close(self._held)
        self._held = -1


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Only note what signals come, so that nothing is begun and then forgotten."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread acts on signals
        return

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
