"""A Hugging Face Hub on this machine, with the few endpoints that loading and pushing weights ask for."""

import base64
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

LARGE = (".safetensors", ".bin", ".onnx")  # files that the Hub keeps outside of Git
WRITER, READER = "hf_writer", "hf_reader"  # tokens


class Hub:
    """The state of the server: repositories by name, with the files of each commit and the commit of main.

    Names in `private` and `gated` refuse who has no token. `damaged` files arrive with a byte changed, `cut`
    files end early. While it `is_down`, every answer is 503. `requests` are the methods and paths of all
    requests, `commits` what was pushed.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, str] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.damaged: set[str] = set()
        self.cut: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.commits: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.is_down = False
        self.breaks_uploads = False

    def add(self, repository: str, files: dict[str, bytes] | Path) -> str:
        """Commits `files`, or those of a folder, to the main branch of `repository`; returns the commit."""
        if isinstance(files, Path):
            files = {file.name: file.read_bytes() for file in files.iterdir() if file.is_file()}
        commits = self.files.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        self.branches[repository] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Stays silent."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.is_down:
            self._send(503, {})
        elif self.command == "PUT" and self.hub.breaks_uploads:
            self.close_connection = True
        elif self.command == "PUT":
            self.hub.uploads[path.rpartition("/")[2]] = body
            self._send(200, {})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif self.command == "POST" and self.headers.get("Authorization") != f"Bearer {WRITER}":
            known = self.headers.get("Authorization") == f"Bearer {READER}"
            self._send(403 if known else 401, {"error": "you may not write here"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._send(
                200, {"transfer": "basic", "objects": list(map(self._upload_of, json.loads(body)["objects"]))}
            )
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            files = [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes.items()]
            self._send(200, {"files": files})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), body)
        elif path.startswith("/api/models/") or "/resolve/" in path:
            self._read(path)
        else:
            self._send(404, {})

    def _create(self, request: dict[str, Any]) -> None:
        repository = f"{request['organization']}/{request['name']}"
        self.hub.files[repository] = {}
        if request.get("private") or request.get("visibility") == "private":
            self.hub.private.add(repository)
        self._send(200, {"url": f"{self._url()}/{repository}"})

    def _upload_of(self, file: dict[str, Any]) -> dict[str, Any]:
        return file | {"actions": {"upload": {"href": f"{self._url()}/uploads/{file['oid']}"}}}

    def _commit(self, repository: str, body: bytes) -> None:
        header, *lines = [json.loads(line) for line in body.splitlines()]
        files = {}
        for line in lines:
            value = line["value"]
            is_large = line["key"] == "lfsFile"
            files[value["path"]] = (
                self.hub.uploads[value["oid"]] if is_large else base64.b64decode(value["content"])
            )
        commit = self.hub.add(repository, files)
        self.hub.commits.append({"repository": repository, "files": files, **header["value"]})
        url = f"{self._url()}/{repository}/commit/{commit}"
        self._send(200, {"commitUrl": url, "commitOid": commit, "success": True})

    def _read(self, path: str) -> None:
        """Answers what a repository's revision is, or with a file of it."""
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").split("/")[1:]
        repository = "/".join(parts[:2])
        revision = "/".join(parts[3:]) if is_api else parts[3]
        commits = self.hub.files.get(repository, {})
        commit = self.hub.branches.get(repository, "") if revision in ("", "main") else revision
        has_token = "Authorization" in self.headers
        if repository not in self.hub.files or (repository in self.hub.private and not has_token):
            self._send(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif is_api and not revision:
            self._send(200, {"id": repository, "sha": commit or None, "siblings": []})
        elif commit not in commits:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif is_api:
            self._send(200, {"id": repository, "sha": commit, "siblings": []})
        elif repository in self.hub.gated and not has_token:
            self._send(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        elif parts[4] not in commits[commit]:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self._send_file(parts[4], commits[commit][parts[4]], commit)

    def _send_file(self, name: str, content: bytes, commit: str) -> None:
        if name.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
        else:
            digest = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        self.send_response(200)
        for header, value in {
            "ETag": f'"{digest}"',
            "X-Repo-Commit": commit,
            "Content-Length": len(content),
        }.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if name in self.hub.cut:
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def running_hub() -> Iterator[tuple[Hub, str]]:
    """Yields an empty hub and its address on this machine, as long as the server runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hub_of_this_machine(folder: Path) -> Iterator[Hub]:
    """Lets huggingface_hub talk to an empty hub here and to nobody else, with its cache in `folder`.

    There is no token, and tries again do not wait.
    """
    with running_hub() as (hub, url), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        for name in (
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ):
            patch.delenv(name, raising=False)
        patch.setattr("time.sleep", lambda seconds: None)
        connect = socket.create_connection

        def connect_here(address: tuple[str, int], *arguments: Any, **more: Any) -> socket.socket:
            assert address[0] == "127.0.0.1", f"a request to {address}"
            return connect(address, *arguments, **more)

        patch.setattr(socket, "create_connection", connect_here)
        close_session()
        yield hub
        close_session()
