"""A Hub on this machine: the part of its HTTP interface that pushing, pulling and streaming use, in memory.

Its clients have to be processes of their own: they read HF_ENDPOINT when they are imported.
"""

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_loopback"
USER = "me"
# Larger files, and all weights, go by LFS, as on the Hub.
LFS_SIZE = 1000
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class Repo:
    """Commits by their hash (path -> file), where branches and tags point, and who may read."""

    private: bool = False
    commits: dict[str, dict[str, dict]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, dict], message: str) -> str:
        content = json.dumps([files, message, len(self.commits)], sort_keys=True)
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha], self.refs[branch] = files, sha
        self.messages.append(message)
        return sha

    @property
    def commits_in_order(self) -> list[str]:
        return list(self.commits)

    def sha(self, revision: str) -> str | None:
        """Of a branch, a tag or a commit."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)


class LoopbackHub(ThreadingHTTPServer):
    r"""
    Serves until `close`; `url` is for HF_ENDPOINT.

    Args:
        repos (`dict`): (kind, name) -> [`Repo`].
        blobs (`dict`): object id -> bytes.
        log (`list[str]`): "METHOD path" of every request, in order.
        refuses (`str`): "batch" or "upload": large files are refused before, or while they are sent.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.refuses = ""
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()

    def text(self, name: str, path: str, kind: str = "model") -> str:
        """A file of a repository's main branch."""
        return self.blobs[self.files(name, kind)[path]["oid"]].decode()

    def config(self, name: str) -> dict:
        return json.loads(self.text(name, "config.json"))

    def files(self, name: str, kind: str = "model") -> dict[str, dict]:
        repo = self.repos[kind, name]
        return repo.commits[repo.refs["main"]]

    def environment(self, home, **more) -> dict[str, str]:
        """For a client: this Hub, a cache of its own, nothing of the user's."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        left = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
        return {**left, **own, **more}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *args):
        pass

    # -- routes --------------------------------------------------------------------------------------------------

    def _route(self):
        address = urlsplit(self.path)
        self.path_only, self.query = unquote(address.path), parse_qs(address.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        with self.server.lock:
            self.server.log.append(f"{self.command} {self.path_only}")
            for pattern, action in _ROUTES:
                method, path = pattern.split(" ")
                wanted = ("GET", "HEAD") if method == "GET" else (method,)
                if self.command in wanted and (match := re.fullmatch(path, self.path_only)):
                    return action(self, **match.groupdict())
            return self._error(404, f"no route for {self.command} {self.path_only}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _route

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # -- answers -------------------------------------------------------------------------------------------------

    def _send(self, status: int, content: bytes, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content, status: int = 200):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str = ""):
        headers = {"Content-Type": "application/json", "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), headers | ({"X-Error-Code": code} if code else {}))

    def _repo(self, kinds: str | None, name: str) -> tuple[str, Repo | None]:
        kind = _KINDS[(kinds or "models").strip("/")]
        repo = self.server.repos.get((kind, name))
        may_read = repo is None or not repo.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or not may_read:
            self._error(404 if may_read else 401, f"Repository {name} not found", "RepoNotFound")
            return kind, None
        return kind, repo

    # -- what there is to ask ------------------------------------------------------------------------------------

    def whoami(self):
        self._json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        kind = asked.get("type") or "model"
        repo = self.server.repos.get((kind, name))
        prefix = "" if kind == "model" else f"{kind}s/"
        answer = {"url": f"{self.server.url}/{prefix}{name}", "name": name, "id": name}
        if repo is not None:
            return self._json({"error": "You already created this repo", **answer}, 409)
        repo = self.server.repos[kind, name] = Repo(
            private=bool(asked.get("private") or asked.get("visibility") == "private")
        )
        repo.commit("main", {}, "initial commit")
        return self._json(answer)

    def validate(self):
        self._json({"errors": [], "warnings": []})

    def preupload(self, kinds, name, rev):
        if self._repo(kinds, name)[1] is None:
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] > LFS_SIZE or file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def lfs_batch(self, name, kinds=None):
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            # What is there already has nothing to be done with.
            if entry["oid"] not in self.server.blobs:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}", "header": {}}}
            if self.server.refuses == "batch":
                entry["error"] = {"code": 403, "message": "no room is left"}
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if self.server.refuses == "upload":
            return self._error(403, "no room is left")
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._error(422, "the content is not what its hash says")
        self.server.blobs[oid] = self.body
        return self._json({})

    def commit(self, kinds, name, rev):
        _, repo = self._repo(kinds, name)
        if repo is None:
            return None
        if repo.sha(rev) is None:
            return self._error(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        files, message = dict(repo.commits[repo.sha(rev)]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                content = base64.b64decode(value["content"])
                oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                self.server.blobs[oid] = content
                files[value["path"]] = {"oid": oid, "size": len(content), "lfs": False}
            elif key == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    return self._error(400, f"{value['path']} was not uploaded")
                files[value["path"]] = {"oid": value["oid"], "size": value["size"], "lfs": True}
            elif key == "deletedFile":
                files.pop(value["path"], None)
            else:
                return self._error(400, f"unknown operation {key}")
        sha = repo.commit(rev, files, message)
        return self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"})

    def tag(self, kinds, name, rev):
        _, repo = self._repo(kinds, name)
        if repo is not None:
            repo.refs[json.loads(self.body)["tag"]] = repo.sha(rev)
            self._json({})

    def info(self, kinds, name, rev="main"):
        _, repo = self._repo(kinds, name)
        if repo is None:
            return None
        sha = repo.sha(rev)
        if sha is None:
            return self._error(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        names = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        about = {"_id": sha[:24], "id": name, "sha": sha, "private": repo.private, "siblings": names}
        return self._json({**about, "tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False})

    def tree(self, kinds, name, rev, folder=None):
        _, repo = self._repo(kinds, name)
        if repo is None:
            return None
        if (sha := repo.sha(rev)) is None:
            return self._error(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in repo.commits[sha].items() if path.startswith(prefix)}
        if folder and not inside:
            return self._error(404, f"{folder} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries = {}
        for path, file in sorted(inside.items()):
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name_of_folder = prefix + "/".join(parts[:depth])
                entries[name_of_folder] = {"type": "directory", "path": name_of_folder, "size": 0, "oid": "0" * 40}
            if recursive or len(parts) == 1:
                entries[path] = _entry(path, file)
        return self._json(list(entries.values()))

    def paths_info(self, kinds, name, rev):
        _, repo = self._repo(kinds, name)
        if repo is None:
            return None
        if (sha := repo.sha(rev)) is None:
            return self._error(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        files, found = repo.commits[sha], []
        for path in paths:
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(other.startswith(f"{path}/") for other in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return self._json(found)

    def resolve(self, name, rev, file, kinds=None):
        _, repo = self._repo(kinds, name)
        if repo is None:
            return None
        if (sha := repo.sha(rev)) is None:
            return self._error(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        entry = repo.commits[sha].get(file)
        if entry is None:
            return self._error(404, f"{file} does not exist", "EntryNotFound")
        content = self.server.blobs[entry["oid"]]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if entry["lfs"]:
            headers |= {"X-Linked-Etag": f'"{entry["oid"]}"', "X-Linked-Size": str(entry["size"])}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self._send(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(206, content[first : last + 1], headers)


def _entry(path: str, file: dict) -> dict:
    entry = {"type": "file", "path": path, "size": file["size"], "oid": file["oid"][:40]}
    return entry | ({"lfs": {"oid": file["oid"], "size": file["size"], "pointerSize": 134}} if file["lfs"] else {})


_NAME, _API = r"(?P<name>[^/]+/[^/]+)", r"/api/(?P<kinds>models|datasets)/(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"POST {_API}/preupload/(?P<rev>[^/]+)", _Handler.preupload),
    (f"POST {_API}/commit/(?P<rev>[^/]+)", _Handler.commit),
    (f"POST {_API}/tag/(?P<rev>[^/]+)", _Handler.tag),
    (f"POST {_API}/paths-info/(?P<rev>[^/]+)", _Handler.paths_info),
    (f"POST /(?P<kinds>datasets/)?{_NAME}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    (f"GET {_API}", _Handler.info),
    (f"GET {_API}/revision/(?P<rev>[^/]+)", _Handler.info),
    (f"GET {_API}/tree/(?P<rev>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
    (f"GET /(?P<kinds>datasets/)?{_NAME}/resolve/(?P<rev>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
