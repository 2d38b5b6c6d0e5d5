"""The two pages as a user has them before them: fields, buttons and what they then say."""

from __future__ import annotations

import json
from dataclasses import dataclass

from chromium import BrowserError, Chromium

PAGES = {"onnxruntime-web": "index.html", "transformers.js": "transformers.html"}
_STATE = "document.getElementById('status')?.dataset.state"


class PageFailed(BrowserError):
    """What a page says that went wrong, in its own words."""


@dataclass(frozen=True)
class Written:
    ids: list[int]
    """The new tokens."""
    text: str
    """The prompt, and what was written after it."""
    rate: float | None
    """Tokens/s after the first."""
    first_ms: float
    """From the request to the first new token."""


class Page:
    """One page, opened anew; `address` is the server's, with a slash at its end."""

    def __init__(self, browser: Chromium, address: str, page: str) -> None:
        self._browser = browser
        browser.open("about:blank")
        browser.wait("location.href", ["about:blank"])
        browser.open(address + page)
        self._until("chosen")

    def load(self, variant: str, *, device: str = "wasm", threads: int = 1) -> float:
        """Choose and load; the seconds it took. PageFailed with the page's words."""
        self._fill(variant=variant, device=device, threads=threads)
        self._press("load", "ready")
        return float(self._browser.evaluate("document.getElementById('status').dataset.seconds"))

    def write(self, prompt: str, count: int, *, temperature: float = 0) -> Written:
        self._fill(prompt=prompt, count=count, temperature=temperature)
        self._press("generate", "written")
        found = self._browser.evaluate(
            "({...document.getElementById('text').dataset, ...document.getElementById('figures')"
            ".dataset, text: document.getElementById('text').textContent})"
        )
        rate = float(found["rate"]) if found.get("rate") else None
        return Written(json.loads(found["ids"]), found["text"], rate, float(found["first"]))

    def downloaded(self) -> dict[str, int]:
        """Bytes of every file that the page asked for, by address."""
        found: dict[str, int] = self._browser.evaluate(
            "Object.fromEntries(['navigation', 'resource'].flatMap((kind) => "
            "performance.getEntriesByType(kind).map((e) => [e.name, e.encodedBodySize])))"
        )
        return found

    def _fill(self, **fields: object) -> None:
        for name, value in fields.items():
            self._browser.evaluate(
                f"document.getElementById({json.dumps(name)}).value = {json.dumps(value)}"
            )

    def _press(self, button: str, wanted: str) -> None:
        self._browser.evaluate("delete document.getElementById('status').dataset.state")
        self._browser.evaluate(f"document.getElementById('{button}').click()")
        self._until(wanted)

    def _until(self, wanted: str) -> None:
        if self._browser.wait(_STATE, [wanted, "failed"]) == "failed":
            said = self._browser.evaluate("document.getElementById('status').textContent")
            raise PageFailed(said)
        self._browser.wait(
            "[...document.querySelectorAll('#load')].every((b) => !b.disabled)", [True]
        )
