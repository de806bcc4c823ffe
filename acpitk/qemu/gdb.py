"""As much of the GDB remote protocol as it takes to stop a guest at an address (QEMU's `-gdb`)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from acpitk.errors import ToolError

_STEP = 0.05
_GONE = "QEMU's debugger connection ended"


class Debugger:
    """A guest that is stopped whenever nobody waits for it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(_STEP)
        self._pending = bytearray()

    def stop_at(self, address: int) -> None:
        """Stop before the instruction at `address` (virtual)."""
        self._ok(f"Z1,{address:x},1")

    def no_stop_at(self, address: int) -> None:
        """No longer."""
        self._ok(f"z1,{address:x},1")

    def go(self) -> None:
        """Let the guest run; `stopped` or `wait` says when it stops."""
        self._send("c")

    def wait(self, seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
        """Wait until the guest stops; False where it does not within `seconds` or ends.

        Raises:
            ToolError: the connection ended.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self._receive()
            if answer is not None:
                return answer[:1] in ("T", "S")
            if not alive():
                return False
        return False

    def interrupt(self) -> None:
        """Stop a running guest."""
        self._connection.sendall(b"\x03")

    def registers(self) -> str:
        """All registers, as the debugger takes them back."""
        return self._ask("g")

    def set_registers(self, registers: str) -> None:
        """Put them back."""
        self._ok(f"G{registers}")

    def write(self, address: int, data: bytes) -> None:
        """Change memory at a virtual address, translated code included."""
        for at in range(0, len(data), 1024):
            part = data[at : at + 1024]
            self._ok(f"M{address + at:x},{len(part):x}:{part.hex()}")

    def detach(self) -> None:
        """Let the guest run on by itself."""
        self._send("D")

    def _ok(self, command: str) -> None:
        if (answer := self._ask(command)) != "OK":
            raise ToolError(f"QEMU's debugger answered {answer!r} to {command[:20]}")

    def _ask(self, command: str, seconds: float = 30) -> str:
        self._send(command)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (answer := self._receive()) is not None:
                return answer
        raise ToolError(f"QEMU's debugger does not answer {command[:20]}")

    def _send(self, command: str) -> None:
        data = command.encode()
        try:
            self._connection.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))
        except OSError:
            raise ToolError(_GONE) from None

    def _receive(self) -> str | None:
        """The next packet; None where there is none yet."""
        while True:
            start = self._pending.find(b"$")
            end = self._pending.find(b"#", start + 1) if start >= 0 else -1
            if 0 <= end <= len(self._pending) - 3:
                packet = self._pending[start + 1 : end].decode("ascii", "replace")
                del self._pending[: end + 3]
                self._connection.sendall(b"+")
                return packet
            try:
                data = self._connection.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                raise ToolError(_GONE) from None
            if not data:
                raise ToolError(_GONE)
            self._pending += data
