"""A Hugging Face Hub in one process, for tests: the unmodified client downloads from it and pushes to it over HTTP.

It speaks the parts of the protocol that `huggingface_hub` asks of a Hub for files of models, datasets and spaces:
repositories with commits, branches and tags, `resolve` with ETags and ranges, large files by redirect to a second
origin, commits as NDJSON, and errors by `X-Error-Code`. Uploads are always "regular" (no LFS uploads).

`LocalHub.environment` is what a child process needs to use it; `LocalHub.patch_client` redirects this process.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "a" * 34
USER = "tester"


@dataclass
class Repo:
    """Commits are snapshots: `commits[oid]` maps paths to contents."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        """Make `files` the whole content of `branch`; returns the commit's id."""
        digest = hashlib.sha1(f"{len(self.commits)} {message}".encode())
        for path in sorted(files):
            digest.update(path.encode() + hashlib.sha1(files[path]).digest())
        oid = digest.hexdigest()
        self.commits[oid] = dict(files)
        self.messages[oid] = message
        self.refs[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        revision = revision.removeprefix("refs/heads/")
        return self.refs.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LocalHub:
    """
    The server; a context manager.

    Args:
        large_file: files of at least this many bytes are served as the Hub serves LFS files, by redirect.
    """

    def __init__(self, large_file: int = 1_000_000):
        self.large_file = large_file
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[tuple[str, int]] = []
        self.faults: list[tuple[str, str | None, Callable]] = []
        self.lock = threading.Lock()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(c)) for c in (_HubHandler, _CdnHandler)]
        hub, cdn = (server.server_address[1] for server in self._servers)
        # by two names, as the client takes what comes from the host of the Hub for an answer of the Hub
        self.endpoint, self.cdn = f"http://127.0.0.1:{hub}", f"http://localhost:{cdn}"

    def _handler(self, base):
        return type(base.__name__, (base,), {"hub": self})

    def __enter__(self):
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Shut the server down: from now on connections are refused."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes | os.PathLike], kind: str = "model", **flags) -> Repo:
        """Create `repo_id` with one commit; contents are bytes or the path of a file."""
        repo = self.repos.setdefault((kind, repo_id), Repo(**flags))
        contents = {path: c if isinstance(c, bytes) else Path(c).read_bytes() for path, c in files.items()}
        repo.commit({**repo.commits.get(repo.refs.get("main"), {}), **contents})
        return repo

    def files(self, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What is in a repository now."""
        repo = self.repos[kind, repo_id]
        return repo.commits[repo.resolve(revision)]

    def count(self, method: str, part: str = "") -> int:
        """How many requests with this method had `part` in their path."""
        return sum(m == method and part in path for m, path in self.requests)

    def fail(self, part: str, status: int):
        """Answer the next request whose path contains `part` with `status`."""
        self.failures.append((part, status))

    def disturb(self, part: str, fault: Callable[["_Handler"], object], times: int = 1, method: str | None = None):
        """Let `fault` answer the next requests (with this method) whose path contains `part`."""
        self.faults += [(part, method, fault)] * times

    def environment(self, home: os.PathLike, token: bool = False) -> dict[str, str]:
        """Environment of a process that uses this Hub, with its caches under `home`."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        env.update(HF_ENDPOINT=self.endpoint, HF_HOME=str(home), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
        env.update(HF_HUB_DISABLE_PROGRESS_BARS="1", OMP_NUM_THREADS="1", NO_PROXY="127.0.0.1,localhost")
        if token:
            env["HF_TOKEN"] = TOKEN
        return env

    def run(self, code: str, home: os.PathLike, token: bool = False, **extra: str) -> subprocess.CompletedProcess:
        """Run Python `code` in a child process that uses this Hub; its output is captured as text."""
        env = {**self.environment(home, token), **extra}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)

    def patch_client(self, monkeypatch, home: os.PathLike, token: bool = False):
        """Redirect the client in this process, which read its environment when it was imported."""
        from huggingface_hub import constants, hf_api

        home = Path(home)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(hf_api.api, "endpoint", self.endpoint)
        if "transformers" in sys.modules:
            # Made at its first use, with the endpoint of that time.
            monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", self.endpoint)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", TOKEN)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes | dict | list = b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content_Type", "application/json")
        headers.setdefault("Content_Length", str(len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_content(self, content: bytes, **headers):
        """A file, or the part of it that a Range header asks for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.reply(200, content, Accept_Ranges="bytes", **headers)
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        if start >= len(content):
            return self.reply(416, Content_Range=f"bytes */{len(content)}")
        part = content[start : end + 1]
        where = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return self.reply(206, part, Content_Range=where, **headers)

    def handle_any(self):
        # An undrained body would be read as the next request of this connection.
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.body = self.read_chunks()
        self.hub.requests.append((self.command, self.path))
        for failure in self.hub.failures:
            if failure[0] in self.path:
                self.hub.failures.remove(failure)
                return self.reply(failure[1], {"error": f"failure {failure[1]} asked for by the test"})
        for fault in self.hub.faults:
            if fault[0] in self.path and fault[1] in (None, self.command):
                self.hub.faults.remove(fault)
                return fault[2](self)
        return self.route()

    def drop(self):
        """Close the connection in place of an answer."""
        self.close_connection = True
        self.connection.close()

    def stall(self, seconds: float):
        """Do not answer before `seconds` have passed."""
        time.sleep(seconds)
        self.drop()

    def flip(self):
        """Answer with content of the right size in which the last byte is another."""
        send = self.send_content
        self.send_content = lambda content, **headers: send(content[:-1] + bytes([content[-1] ^ 1]), **headers)
        self.route()
        del self.send_content

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


class _CdnHandler(_Handler):
    """The second origin, which holds large files by their SHA-256; it wants no Authorization header."""

    def route(self):
        if "Authorization" in self.headers:
            return self.reply(400, b"credentials were sent to the storage origin")
        digest = self.path.strip("/")
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                for content in files.values():
                    if len(content) >= self.hub.large_file and hashlib.sha256(content).hexdigest() == digest:
                        return self.send_content(content, ETag=f'"{digest}"')
        return self.reply(404)


class _HubHandler(_Handler):
    API = re.compile(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([\w-]+)(?:/([^/]+))?(?:/(.*))?)?")
    RESOLVE = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

    def error(self, status: int, code: str):
        return self.reply(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find_repo(self, kind: str, repo_id: str) -> Repo | None:
        """The repository, or None after an error has been sent."""
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self.authorized()):
            self.error(404 if self.authorized() else 401, "RepoNotFound")
            return None
        return repo

    def route(self):
        if "Authorization" in self.headers and not self.authorized():
            wrong = "Invalid credentials in Authorization header"
            return self.reply(401, {"error": wrong}, X_Error_Message=wrong)
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        with self.hub.lock:
            if match := self.RESOLVE.fullmatch(url.path):
                kind, repo_id, revision, path = match.groups()
                return self.resolve(kind or "model", repo_id, unquote(revision), unquote(path))
            if url.path == "/api/validate-yaml":
                return self.reply(200, {"errors": [], "warnings": []})
            if url.path == "/api/whoami-v2" and self.authorized():
                return self.reply(200, {"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {}})
            is_public = self.command == "GET" and url.path != "/api/whoami-v2"
            if not (self.authorized() or is_public or "/paths-info/" in url.path):
                return self.reply(401, {"error": "Invalid credentials"})
            if url.path in ("/api/repos/create", "/api/repos/delete"):
                return self.create_or_delete(url.path.endswith("create"), json.loads(self.body))
            if match := self.API.fullmatch(url.path):
                kind, repo_id, action, revision, rest = match.groups()
                repo = self.find_repo(kind, repo_id)
                if repo is None:
                    return None
                return self.api(repo, kind, repo_id, action, unquote(revision or "main"), unquote(rest or ""))
        return self.error(404, "EntryNotFound")

    def resolve(self, kind: str, repo_id: str, revision: str, path: str):
        repo = self.find_repo(kind, repo_id)
        if repo is None:
            return None
        if repo.gated and not self.authorized():
            return self.error(403, "GatedRepo")
        oid = repo.resolve(revision)
        if oid is None:
            return self.error(404, "RevisionNotFound")
        content = repo.commits[oid].get(path)
        if content is None:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        if len(content) < self.hub.large_file:
            return self.send_content(content, ETag=f'"{blob_id(content)}"', X_Repo_Commit=oid)
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X_Linked_Size": str(len(content)), "X_Linked_ETag": f'"{digest}"', "X_Repo_Commit": oid}
        return self.reply(302, b"", Location=f"{self.hub.cdn}/{digest}", **linked)

    def create_or_delete(self, create: bool, request: dict):
        owner = request.get("organization") or USER
        repo_id = request["name"] if "/" in request["name"] else f"{owner}/{request['name']}"
        key = (request.get("type") or "model", repo_id)
        url = f"{self.hub.endpoint}/{'' if key[0] == 'model' else key[0] + 's/'}{repo_id}"
        if not create:
            if self.hub.repos.pop(key, None) is None:
                return self.error(404, "RepoNotFound")
            return self.reply(200, {})
        if key in self.hub.repos:
            return self.reply(409, {"error": "You already created this repo", "url": url})
        private = bool(request.get("private")) or request.get("visibility") == "private"
        repo = self.hub.repos[key] = Repo(private=private)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, message="initial")
        return self.reply(200, {"url": url, "id": repo_id, "name": repo_id})

    def api(self, repo: Repo, kind: str, repo_id: str, action: str | None, revision: str, rest: str):
        if action == "settings":
            return self.reply(200, {})
        if action == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.refs.items()]
            tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()]
            return self.reply(200, {"branches": branches, "tags": tags, "converts": []})
        if action == "branch":
            repo.refs[revision] = repo.resolve(json.loads(self.body or b"{}").get("startingPoint") or "main")
            return self.reply(200, {})
        if action == "tag":
            repo.tags[json.loads(self.body)["tag"]] = repo.resolve(revision)
            return self.reply(200, {})
        oid = repo.resolve(revision)
        if oid is None:
            return self.error(404, "RevisionNotFound")
        files = repo.commits[oid]
        if action in (None, "revision"):
            siblings = [{"rfilename": path} for path in sorted(files)]
            flags = {"private": repo.private, "gated": repo.gated, "tags": [], "downloads": 0, "likes": 0}
            return self.reply(200, {"id": repo_id, "modelId": repo_id, "sha": oid, "siblings": siblings, **flags})
        if action == "tree":
            return self.reply(200, self.tree(files, rest))
        if action == "paths-info":
            asked = self.asked_paths()
            return self.reply(200, [self.entry(path, files[path]) for path in asked if path in files])
        if action == "commits":
            log = [
                {"id": c, "title": m, "message": "", "authors": [], "date": _DATE} for c, m in repo.messages.items()
            ]
            return self.reply(200, log[::-1])
        if action == "preupload":
            return self.preupload(json.loads(self.body)["files"], files)
        if action == "commit":
            return self.commit(repo, kind, repo_id, revision, files)
        return self.error(404, "EntryNotFound")

    def tree(self, files: dict[str, bytes], folder: str) -> list[dict]:
        prefix = folder.rstrip("/") + "/" if folder else ""
        inside = sorted(path for path in files if path.startswith(prefix))
        if self.query.get("recursive", ["false"])[0].lower() == "true":
            return [self.entry(path, files[path]) for path in inside]
        # the folder itself, without what is below its folders
        folders = sorted({prefix + rest.partition("/")[0] for path in inside if "/" in (rest := path[len(prefix) :])})
        entries = [{"type": "directory", "path": path, "size": 0, "oid": blob_id(path.encode())} for path in folders]
        return entries + [self.entry(path, files[path]) for path in inside if "/" not in path[len(prefix) :]]

    def asked_paths(self) -> list[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self.body)["paths"]
        return parse_qs(self.body.decode()).get("paths", [])

    def entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if len(content) >= self.hub.large_file:
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
        return entry

    def preupload(self, asked: list[dict], files: dict[str, bytes]):
        answers = []
        for item in asked:
            path = item["path"]
            oid = blob_id(files[path]) if path in files else None
            answers.append({"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
        return self.reply(200, {"files": answers})

    def commit(self, repo: Repo, kind: str, repo_id: str, branch: str, files: dict[str, bytes]):
        files, title = dict(files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value.get("summary", "")
                if value.get("parentCommit") not in (None, repo.refs.get(branch)):
                    return self.reply(412, {"error": "A commit has happened since. Please refresh and try again."})
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif item["key"] == "deletedFolder":
                files = {p: c for p, c in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
            else:
                return self.reply(400, {"error": f"unsupported operation {item['key']}"})
        oid = repo.commit(files, branch, title)
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}/commit/{oid}"
        return self.reply(200, {"success": True, "commitOid": oid, "commitUrl": url})


_DATE = "2024-01-01T00:00:00.000Z"
