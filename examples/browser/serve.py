"""Serve the pages of this folder, and one bundle at /bundle/, with the headers that threads need.

    python examples/browser/serve.py BUNDLE [--port 8000]

A browser gives a page threads (SharedArrayBuffer) only where it is cross-origin isolated: see
https://developer.mozilla.org/docs/Web/API/Window/crossOriginIsolated.
"""

from __future__ import annotations

import argparse
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
_BUNDLE = "/bundle/"
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


def make_server(
    bundle: Path, *, pages: Path = HERE, port: int = 0, isolated: bool = True, quiet: bool = False
) -> ThreadingHTTPServer:
    """A server on this machine only, at a free port where `port` is 0; serve_forever() runs it.

    `isolated=False` leaves the headers out, as most servers do.
    """

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **_TYPES}  # noqa: RUF012

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(pages))

        def translate_path(self, path: str) -> str:
            if not path.startswith(_BUNDLE):
                return super().translate_path(path)
            pages_folder, self.directory = self.directory, str(bundle)
            try:
                return super().translate_path(path.removeprefix(_BUNDLE[:-1]))
            finally:
                self.directory = pages_folder

        def end_headers(self) -> None:
            for name, value in ISOLATION.items() if isolated else ():
                self.send_header(name, value)
            self.send_header("Cache-Control", "no-cache")  # asks each time, downloads what changed
            super().end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            if not quiet:
                super().log_message(format, *args)

    return _Server(("127.0.0.1", port), Handler)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a tab was closed
            super().handle_error(request, client_address)


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the pages and a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    if not (asked.bundle / "manifest.json").is_file():
        print(f"error: {asked.bundle} is no gpt2edge bundle", file=sys.stderr)
        return 2
    if not (HERE / "vendor").is_dir():
        print("error: no vendor/: run `npm ci && npm run vendor` in", HERE, file=sys.stderr)
        return 2
    try:
        server = make_server(asked.bundle, port=asked.port)
    except OSError as reason:
        print(f"error: port {asked.port}: {reason.strerror}", file=sys.stderr)
        return 2
    print(f"http://localhost:{server.server_port}/ (Ctrl+C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
