"""The Hub's endpoints that the huggingface_hub client calls to create, upload to, and download from a repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """A Hub in memory: repositories as {path: content}, and large objects by their hash."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.asked: list[tuple[str, str, str]] = []  # repository, revision and path of each file that was asked for
        self.invalid = ""  # why every card is refused, if it is
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        path, body = urlparse(self.path).path, self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self.server.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            self._json({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            if self.server.invalid:
                self._send(400, self.server.invalid.encode())
            else:
                self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            large = ".safetensors"
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            self._json({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = []
            for item in json.loads(body)["objects"]:
                href = f"{self.server.url}/upload/{item['oid']}"
                objects.append({**item, "actions": {"upload": {"href": href, "header": {}}}})
            self._json({"transfer": "basic", "objects": objects}, content_type="application/vnd.git-lfs+json")
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self._commit(match.group(1), body)
            self._json(
                {
                    "commitUrl": f"{self.server.url}/{match.group(1)}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "hookOutput": "",
                }
            )
        else:
            self._unknown()

    def do_PUT(self) -> None:
        content = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.large[oid] = content
        self._send(200, b"")

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path == "/api/whoami-v2":
            self._json({"type": "user", "name": "user", "orgs": [], "auth": {"type": "access_token"}})
        elif match := re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)(?:/.*)?", path):
            files = self.server.repositories.get(match.group(1), {})
            self._json([self._entry(name, content) for name, content in files.items()])
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            name = match.group(1)
            if name not in self.server.repositories:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            siblings = [{"rfilename": path} for path in self.server.repositories[name]]
            self._json(
                {"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []}
            )
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self.server.asked.append((match.group(1), match.group(2), match.group(3)))
            self._resolve(match.group(1), match.group(3))
        else:
            self._unknown()

    do_HEAD = do_GET

    def _entry(self, name: str, content: bytes) -> dict:
        oid = hashlib.sha256(content).hexdigest()
        entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        return entry | (
            {"lfs": {"oid": oid, "size": len(content), "pointerSize": 130}} if oid in self.server.large else {}
        )

    def _resolve(self, repository: str, name: str) -> None:
        content = self.server.repositories.get(repository, {}).get(name)
        if content is None:
            known = repository in self.server.repositories
            code = "EntryNotFound" if known else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(
            200,
            content,
            {"ETag": etag, "X-Repo-Commit": COMMIT, "X-Linked-ETag": etag, "X-Linked-Size": str(len(content))},
        )

    def _commit(self, repository: str, body: bytes) -> None:
        files = self.server.repositories[repository]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _unknown(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self._send(404, b"{}")

    def _json(self, value: object, content_type: str = "application/json") -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": content_type})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
