"""A headless Chromium, driven through its DevTools protocol on a pair of pipes.

https://chromedevtools.github.io/devtools-protocol/: one JSON object each way, a zero byte behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

_FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip

# Chromium reads descriptor 3 and writes descriptor 4.
_EXEC = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class BrowserError(Exception):
    """Chromium, or the page in it, did not do what it was asked."""


class Chromium:
    """One tab; a context manager, which ends the browser and removes its profile."""

    def __init__(self, *flags: str, program: str = "chromium") -> None:
        self._profile = Path(tempfile.mkdtemp(prefix="gpt2edge-chromium-"))
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        command: list[str] = [program, *_FLAGS, *flags, f"--user-data-dir={self._profile}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # it refuses to have one as root
        self._process = subprocess.Popen(
            [sys.executable, "-c", _EXEC, str(theirs_in), str(theirs_out), *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out), start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._read = b""
        self._number = 0
        self._session: str | None = None
        try:
            target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
            attach = {"targetId": target, "flatten": True}
            self._session = self._send("Target.attachToTarget", attach)["sessionId"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, url: str) -> None:
        self._send("Page.navigate", {"url": url})

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON; a promise is waited for."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self._send("Runtime.evaluate", asked)
        if "exceptionDetails" in found:
            raise BrowserError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait(self, expression: str, among: Sequence[Any], limit_s: float = 60) -> Any:
        """The value of the expression as soon as it is one of `among`."""
        end = time.monotonic() + limit_s
        while (value := self.evaluate(expression)) not in among:
            if time.monotonic() > end:
                raise BrowserError(f"{expression} is {value!r} after {limit_s:.0f} s")
            time.sleep(0.05)
        return value

    def close(self) -> None:
        for descriptor in (self._out, self._in):
            os.close(descriptor)  # the end of its pipe ends Chromium
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _send(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        try:
            while left:
                left = left[os.write(self._out, left) :]
        except BrokenPipeError:
            raise BrowserError("Chromium has ended") from None
        while (answer := self._receive()).get("id") != self._number:
            pass
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self, limit_s: float = 60) -> dict[str, Any]:
        while b"\0" not in self._read:
            if not select.select([self._in], [], [], limit_s)[0]:
                raise BrowserError(f"Chromium said nothing for {limit_s:.0f} s")
            if not (part := os.read(self._in, 1 << 16)):
                raise BrowserError("Chromium has ended")
            self._read += part
        line, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _pipe() -> tuple[int, int]:
    """Its two ends, neither of which is a 3 or 4 that the other's place would overwrite."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return read, write
