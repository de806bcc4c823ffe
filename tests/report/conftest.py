"""A headless Chromium over its DevTools pipe: no driver, no port, no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--window-size=1280,1000",
)
_TIMEOUT = 60.0


class Browser:
    """One page. `problems` collects console errors, exceptions and every request but the page itself."""

    def __init__(self, program: str, profile: Path) -> None:
        child_reads, self._to = os.pipe()
        self._from, child_writes = os.pipe()

        def connect() -> None:  # Chromium reads file descriptor 3 and writes 4
            kept = os.dup(child_reads), os.dup(child_writes)
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self.problems: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: Path) -> float:
        """Load a file; seconds from navigation to the end of its load event."""
        self._call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + _TIMEOUT
        while self.run("location.href !== 'about:blank' && document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page does not finish loading"
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seconds: float = self.run("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        return seconds

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press and release one key."""
        for kind in ("keyDown", "keyUp"):
            given: dict[str, Any] = {"text": text} if text and kind == "keyDown" else {}
            given |= {"windowsVirtualKeyCode": 9} if key == "Tab" else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, **given)

    def colour_scheme(self, name: str, media: str = "") -> None:
        """Prefer `light` or `dark`; media `print` shows what would be printed."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, to: Path) -> None:
        """Save what is in view as PNG."""
        to.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._to)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        first, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(first)
        return parsed

    def _note(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(f"exception: {given['exceptionDetails']}")
            case "Runtime.consoleAPICalled":
                self.problems.append(f"console: {given['args']}")
            case "Log.entryAdded":
                self.problems.append(f"log: {given['entry']['text']}")
            case "Network.requestWillBeSent" if not given["request"]["url"].startswith(("file:", "data:")):
                self.problems.append(f"request: {given['request']['url']}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A running Chromium."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        reason = "no Chromium on PATH: install Debian's chromium"
        if "chromium" in os.environ.get("ACPITK_REQUIRE", "").split(","):
            pytest.fail(f"ACPITK_REQUIRE names chromium, and it is missing: {reason}")
        pytest.skip(reason)
    running = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield running
    running.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Callable[[str], float]:
    """`opened(html)` loads a document and says how many seconds that took."""

    def load(html: str) -> float:
        path = tmp_path / "report.html"
        path.write_text(html)
        browser.problems.clear()
        return browser.open(path)

    return load
