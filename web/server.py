"""Serves a folder of static files on this machine alone."""

import http.server
import io
import re
import sys
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from resnet.errors import UserError

LOOPBACK = "127.0.0.1"
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",  # Windows may have another type in its registry.
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        """Answers under the names of this machine alone.

        Another website may point its own name here, and could then read the folder.
        """
        if not OWN_HOST.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, explain="Open this page at 127.0.0.1 or localhost")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        # In the page it does not bind the worker that runs the network.
        if policy := _content_security_policy(Path(self.directory, "index.html")):
            self.send_header("Content-Security-Policy", policy)
        # Browsers give threads that share memory only to pages that are isolated from others.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing: a page makes dozens of requests."""


def _content_security_policy(page: Path) -> str:
    """Returns the policy that `page` states, empty where there is no such page."""
    with suppress(OSError):
        if match := re.search(r'"Content-Security-Policy" content="([^"]+)"', page.read_text()):
            return match[1]
    return ""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Passes over browsers that went away in the middle of a file, as when a page is loaded anew."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def make_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of `folder` on the loopback address; with port 0 the system chooses one.

    Raises:
        UserError: the port is taken or not allowed.
    """
    try:
        return _Server((LOOPBACK, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise UserError(
            f"--port={port}: cannot be used ({error.strerror}); expected a free one, such as --port=0, where"
            " the system chooses"
        ) from None
