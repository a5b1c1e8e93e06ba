"""A Kaggle on the loopback, for the real, unmodified client: what it keeps are plain dataclasses, and each way in which
Kaggle fails is an attribute that a test sets.

    with FakeKaggle() as kaggle:
        kaggle.trouble["SaveKernel"].append(Trouble(500, after=True))
        subprocess.run(["kaggle", ...], env=kaggle.environment(scratch))

The client is sent here by its own endpoint for local servers and by `http_proxy`; nothing else can be reached.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import tarfile
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PROCESSING = "BLOBS_RECEIVED"
DENIED = "Permission '{}.get' was denied"
BUSY = "Maximum batch GPU session count of 2 reached."
SIGNATURE = "X-Goog-Signature=5ecre7signature"
SOURCES = ("datasetDataSources", "competitionDataSources", "kernelDataSources", "modelDataSources")
MODIFIED = formatdate(1_700_000_000, usegmt=True)


@dataclass
class Trouble:
    """What goes wrong with one call: a status instead of an answer, or a dropped connection (status 0).

    after: the call is carried out first. keep: of a PUT, so many bytes are stored; of a GET, so many are sent before
    the connection is dropped. headers: of the answer.
    """

    status: int = 0
    after: bool = False
    keep: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "the server had a bad day"


@dataclass
class Version:
    """A version of a dataset. polls: questions for its status that are answered with PROCESSING before the end."""

    files: dict[str, bytes]
    notes: str
    polls: int
    end: str = "READY"


@dataclass
class Dataset:
    """late: questions for the status that are still answered for the version before."""

    owner: str
    slug: str
    title: str
    licence: str
    private: bool
    versions: list[Version] = field(default_factory=list)
    late: int = 0


@dataclass
class Ran:
    """What a run of a notebook left: files, lines of its log, and the message it failed with."""

    files: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass
class Push:
    """A version of a notebook: the request that made it, and what its run left once it has been asked for."""

    request: dict[str, Any]
    polls: int
    ran: Ran | None = None


@dataclass
class Kernel:
    owner: str
    slug: str
    pushes: list[Push] = field(default_factory=list)


@dataclass
class Submission:
    ref: int
    competition: str
    description: str
    file: str
    content: bytes
    polls: int
    status: str
    public: str = ""
    error: str = ""


@dataclass
class Competition:
    """files: the host's. accepted: whether the user accepted the rules. code: takes notebooks, not files."""

    slug: str
    files: dict[str, bytes] = field(default_factory=dict)
    accepted: bool = True
    code: bool = True
    daily: int = 5
    today: int = 0


@dataclass
class Blob:
    name: str
    size: int
    content: bytes = b""
    whole: bool = False


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class FakeKaggle:
    """The server and its state. Use as a context manager.

    users: name -> key. tokens: token -> name. dataset_polls, kernel_polls, submission_polls: how long things take.
    page: rows of a list at once, at most. lag: questions for its status that do not see a new version of a dataset yet.
    wraps: single files are served as zip archives, as large ones are. busy: pushes to a GPU that find every slot taken.
    quota: bytes of private datasets. gpu_seconds_used: out of 30 hours. refused: sources that Kaggle calls invalid
    although they exist. run: makes what a pushed notebook leaves; called at the first question for its status that is
    not answered with QUEUED. grade: of a submitted file, the public score and an error. trouble: by method (or PUT,
    GET), what goes wrong with the next calls, in order.
    """

    def __init__(self) -> None:
        self.users = {"tester": "key-0123456789abcdef"}
        self.tokens: dict[str, str] = {}
        self.competitions: dict[str, Competition] = {}
        self.datasets: dict[tuple[str, str], Dataset] = {}
        self.kernels: dict[tuple[str, str], Kernel] = {}
        self.submissions: list[Submission] = []
        self.blobs: dict[str, Blob] = {}
        self.dataset_polls = self.kernel_polls = self.submission_polls = 1
        self.page, self.lag, self.wraps = 100, 0, False
        self.busy = 0
        self.quota = 10**9
        self.gpu_seconds_used = 3600
        self.refused: set[str] = set()
        self.run: Callable[[Push], Ran] = lambda push: Ran({"submission.csv": b"id,label\n"}, ["done\n"])
        self.grade: Callable[[bytes], tuple[str | None, str]] = lambda content: ("0.5", "")
        self.trouble: defaultdict[str, list[Trouble]] = defaultdict(list)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.downloads: dict[str, tuple[str, bytes]] = {}
        self.ranges: list[str] = []
        self.faults: list[BaseException] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"kaggle": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = self._note_fault  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _note_fault(self, *_: object) -> None:
        """Faults of this server, looked at by the fixture; a client that hangs up is none."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | ValueError):
            self.faults.append(error)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables by which the client reaches this server and nothing else, with its files below `home`."""
        return {
            "HOME": str(home),
            "TMPDIR": str(home),
            "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": self.address,
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "",
        }

    def called(self, method: str) -> list[dict[str, Any]]:
        """The bodies of the calls of one method."""
        return [body for name, body in self.calls if name == method]

    def mount(self, push: Push, folder: Path) -> dict[str, Path]:
        """Write a pushed notebook's sources below `folder`; returns path below /kaggle/input -> folder."""
        places: dict[str, dict[str, bytes]] = {}
        for source in push.request.get("datasetDataSources", []):
            owner, slug = source.split("/")[:2]
            places[f"datasets/{owner}/{slug}"] = self.datasets[owner, slug].versions[-1].files
        for slug in push.request.get("competitionDataSources", []):
            places[f"competitions/{slug}"] = self.competitions[slug].files
        for source in push.request.get("kernelDataSources", []):
            ran = self.kernels[tuple(source.split("/")[:2])].pushes[-1].ran
            places[f"notebooks/{source}"] = ran.files if ran else {}
        for place, files in places.items():
            for name, content in files.items():
                path = folder / place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return {place: folder / place for place in places}

    # What the client calls. `user` is who asks; `body` has camelCase fields and lacks those with default values.

    def IntrospectToken(self, user: str, body: dict[str, Any]) -> Any:
        name = self.tokens.get(body["token"])
        return {"active": name is not None, "username": name or ""}

    def GetCompetition(self, user: str, body: dict[str, Any]) -> Any:
        one = self._competition(body)
        return {
            "id": 1,
            "ref": f"https://www.kaggle.com/competitions/{one.slug}",
            "userHasEntered": one.accepted,
            "isKernelsSubmissionsOnly": one.code,
            "maxDailySubmissions": one.daily,
        }

    def ListDataFiles(self, user: str, body: dict[str, Any]) -> Any:
        files = self._entered(body).files
        return self._paged("files", [{"name": name, "totalBytes": len(files[name])} for name in sorted(files)], body)

    def DownloadDataFiles(self, user: str, body: dict[str, Any]) -> Any:
        one = self._entered(body)
        return self._link(f"{one.slug}.zip", zipped(one.files))

    def DownloadDataFile(self, user: str, body: dict[str, Any]) -> Any:
        return self._link(body["fileName"], self._entered(body).files[body["fileName"]])

    def GetSubmissionLimits(self, user: str, body: dict[str, Any]) -> Any:
        one = self._competition(body)
        allowed = max(0, one.daily - one.today) if one.accepted else 0
        return {"numToday": one.today, "numTotal": one.today, "numAllowedNow": allowed}

    def StartSubmissionUpload(self, user: str, body: dict[str, Any]) -> Any:
        return self.StartBlobUpload(user, {**body, "name": body["fileName"]})

    def CreateSubmission(self, user: str, body: dict[str, Any]) -> Any:
        one, blob = self._entered(body), self.blobs[body["blobFileTokens"]]
        if one.code:
            raise Refused(400, "Submission not allowed: this competition only accepts submissions from Notebooks")
        return self._submit(one, body, blob.name, blob.content)

    def CreateCodeSubmission(self, user: str, body: dict[str, Any]) -> Any:
        one = self._entered(body)
        kernel = self._kernel({"userName": body["kernelOwner"], "kernelSlug": body["kernelSlug"]})
        push = kernel.pushes[body["kernelVersion"] - 1]
        if "fileName" not in body or push.ran is None or push.ran.failure or push.request.get("enableInternet"):
            raise Refused(400, "Bad Request")
        if body["fileName"] not in push.ran.files:
            raise Refused(400, "Could not find the file in the notebook's output")
        return self._submit(one, body, body["fileName"], push.ran.files[body["fileName"]])

    def GetSubmission(self, user: str, body: dict[str, Any]) -> Any:
        one = next(each for each in self.submissions if each.ref == body["ref"])
        if one.polls:
            one.polls -= 1
        elif one.status == "PENDING":
            score, error = self.grade(one.content)
            one.status, one.public, one.error = ("ERROR" if error else "COMPLETE"), score or "", error
        return _told(one)

    def ListSubmissions(self, user: str, body: dict[str, Any]) -> Any:
        mine = [one for one in reversed(self.submissions) if one.competition == body["competitionName"]]
        return self._paged("submissions", [_told(one) for one in mine], body)

    def StartBlobUpload(self, user: str, body: dict[str, Any]) -> Any:
        token = f"blob{len(self.blobs)}"
        self.blobs[token] = Blob(body["name"], body.get("contentLength", 0))
        return {"token": token, "createUrl": f"http://localhost/upload/{token}?upload_id=5ecre7"}

    def GetDatasetStatus(self, user: str, body: dict[str, Any]) -> Any:
        one = self._dataset(user, body)
        if one.late:
            one.late -= 1
            return {"status": one.versions[-2].end}
        version = one.versions[-1]
        if version.polls:
            version.polls -= 1
            return {"status": PROCESSING}
        return {"status": version.end}

    def GetDataset(self, user: str, body: dict[str, Any]) -> Any:
        one = self._dataset(user, body)
        seen = one.versions[:-1] if one.late else one.versions
        ready = [at for at, version in enumerate(seen, 1) if not version.polls]
        return {
            "ref": f"{one.owner}/{one.slug}",
            "title": one.title,
            "isPrivate": one.private,
            "currentVersionNumber": max(ready, default=1),
        }

    def CreateDataset(self, user: str, body: dict[str, Any]) -> Any:
        owner, slug = body["ownerSlug"], body["slug"]
        if (owner, slug) in self.datasets:
            return {"status": "Error", "error": "The requested title is already in use by a dataset."}
        one = Dataset(owner, slug, body["title"], body["licenseName"], body.get("isPrivate", False))
        self.datasets[owner, slug] = one
        return self._add_version(one, body.get("files", []), "")

    def CreateDatasetVersion(self, user: str, body: dict[str, Any]) -> Any:
        one = self._dataset(user, body)
        if one.versions[-1].polls:
            raise Refused(403, "Permission 'datasets.update' was denied")
        return self._add_version(one, body["body"].get("files", []), body["body"].get("versionNotes", ""))

    def ListDatasetFiles(self, user: str, body: dict[str, Any]) -> Any:
        version = self._dataset(user, body).versions[-1]
        files = version.files if version.end == "READY" and not version.polls else {}
        rows = [{"name": name, "totalBytes": len(files[name])} for name in sorted(files)]
        return self._paged("datasetFiles", rows, body)

    def DownloadDataset(self, user: str, body: dict[str, Any]) -> Any:
        one = self._dataset(user, body)
        version = one.versions[body.get("datasetVersionNumber", 0) - 1]
        if "fileName" not in body:
            return self._link(f"{one.slug}.zip", zipped(version.files))
        if body["fileName"] not in version.files:
            raise Refused(404, "Not found")
        name, content = body["fileName"], version.files[body["fileName"]]
        return self._link(f"{name}.zip", zipped({name: content})) if self.wraps else self._link(name, content)

    def SaveKernel(self, user: str, body: dict[str, Any]) -> Any:
        owner, slug = body["slug"].split("/")
        if re.sub(r"[^a-z0-9]+", "-", body["newTitle"].lower()).strip("-") != slug:
            raise Refused(409, "A notebook with this title is already in use")
        if body.get("enableGpu") and self.busy:
            self.busy -= 1
            return {"error": BUSY}
        kernel = self.kernels.setdefault((owner, slug), Kernel(owner, slug))
        kernel.pushes.append(Push(body, self.kernel_polls))
        wanted = body.get("datasetDataSources", [])
        known = {f"{one.owner}/{one.slug}" for one in self.datasets.values()} - self.refused
        invalid = {
            "invalidDatasetSources": [name for name in wanted if name not in known],
            "invalidCompetitionSources": [
                name for name in body.get("competitionDataSources", []) if name not in self.competitions
            ],
            "invalidKernelSources": [
                name for name in body.get("kernelDataSources", []) if tuple(name.split("/")[:2]) not in self.kernels
            ],
            "invalidModelSources": list(body.get("modelDataSources", [])),
        }
        for kind in ("Dataset", "Competition", "Kernel", "Model"):
            key, refused = f"{kind.lower()}DataSources", invalid[f"invalid{kind}Sources"]
            if key in body:
                body[key] = [name for name in body[key] if name not in refused]
        url = f"https://www.kaggle.com/code/{owner}/{slug}"
        return {"ref": f"/code/{owner}/{slug}", "url": url, "versionNumber": len(kernel.pushes), **invalid}

    def GetKernel(self, user: str, body: dict[str, Any]) -> Any:
        kernel = self._kernel(body)
        request = kernel.pushes[-1].request
        metadata = {
            "ref": f"{kernel.owner}/{kernel.slug}",
            "isPrivate": request.get("isPrivate", False),
            "enableInternet": request.get("enableInternet", False),
            **{key: request.get(key, []) for key in SOURCES},
            "currentVersionNumber": len(kernel.pushes),
        }
        return {"metadata": metadata, "blob": {"source": request["text"], "slug": kernel.slug}}

    def GetKernelSessionStatus(self, user: str, body: dict[str, Any]) -> Any:
        push = self._push(body)
        if push.polls:
            push.polls -= 1
            return {"status": "QUEUED" if push.polls else "RUNNING"}
        if push.ran is None:
            push.ran = self.run(push)
        return {"status": "ERROR" if push.ran.failure else "COMPLETE", "failureMessage": push.ran.failure}

    def ListKernelSessionOutput(self, user: str, body: dict[str, Any]) -> Any:
        ran = self._push(body).ran or Ran()
        rows = [
            {"fileName": name, "url": self._link(name, content).removeprefix("302 ")}
            for name, content in sorted(ran.files.items())
        ]
        log = [{"stream_name": "stdout", "time": float(at), "data": line} for at, line in enumerate(ran.log)]
        return {**self._paged("files", rows, body), "log": json.dumps(log)}

    def GetAcceleratorQuotaStatistics(self, user: str, body: dict[str, Any]) -> Any:
        return {
            "quotaRefreshTime": "2030-01-05T00:00:00Z",
            "gpuQuota": {"timeUsed": f"{self.gpu_seconds_used}s", "totalTimeAllowed": "108000s"},
        }

    # How they are made.

    def _competition(self, body: dict[str, Any]) -> Competition:
        try:
            return self.competitions[body["competitionName"]]
        except KeyError:
            raise Refused(403, "Permission 'competitions.participate' was denied") from None

    def _entered(self, body: dict[str, Any]) -> Competition:
        one = self._competition(body)
        if not one.accepted:
            raise Refused(403, "You must accept this competition's rules before you'll be able to download files.")
        return one

    def _dataset(self, user: str, body: dict[str, Any]) -> Dataset:
        one = self.datasets.get((body["ownerSlug"], body["datasetSlug"]))
        if one is None or (one.private and one.owner != user):
            raise Refused(403, DENIED.format("datasets"))
        return one

    def _kernel(self, body: dict[str, Any]) -> Kernel:
        kernel = self.kernels.get((body["userName"], body["kernelSlug"]))
        if kernel is None:
            raise Refused(403, DENIED.format("kernels"))
        return kernel

    def _push(self, body: dict[str, Any]) -> Push:
        label = body.get("versionLabel", "")
        if label and not label.startswith("v"):
            raise Refused(404, "Not found")
        return self._kernel(body).pushes[int(label[1:]) - 1 if label else -1]

    def _add_version(self, one: Dataset, files: list[dict[str, str]], notes: str) -> Any:
        blobs = [self.blobs[file["token"]] for file in files]
        assert all(blob.whole for blob in blobs), "a version names a blob that was not uploaded"
        stored = {name: content for blob in blobs for name, content in _unpacked(blob.name, blob.content).items()}
        used = sum(len(content) for content in stored.values())
        bad = used > self.quota or any(mark in blob.name for blob in blobs for mark in "@&")
        one.late = self.lag if one.versions else 0
        one.versions.append(Version(stored, notes, self.dataset_polls, "FAILED" if bad else "READY"))
        url = f"https://www.kaggle.com/datasets/{one.owner}/{one.slug}"
        return {"ref": f"/{one.owner}/{one.slug}", "url": url, "status": "Ok", "error": "", "invalidTags": []}

    def _submit(self, one: Competition, body: dict[str, Any], file: str, content: bytes) -> Any:
        if one.today >= one.daily:
            raise Refused(400, "Submission not allowed: your team has used its daily submission allowance")
        one.today += 1
        ref = 1000 + len(self.submissions)
        text = body.get("submissionDescription", "")
        self.submissions.append(Submission(ref, one.slug, text, file, content, self.submission_polls, "PENDING"))
        return {"message": f"Successfully submitted to {one.slug}", "ref": ref}

    def _paged(self, key: str, rows: list[Any], body: dict[str, Any]) -> dict[str, Any]:
        start, size = int(body.get("pageToken") or 0), min(body.get("pageSize") or 20, self.page)
        more = str(start + size) if start + size < len(rows) else ""
        return {key: rows[start : start + size], "nextPageToken": more}

    def _link(self, name: str, content: bytes) -> str:
        """A signed address of a file; the prefix tells the handler to redirect there."""
        number = str(len(self.downloads))
        self.downloads[number] = (name, content)
        return f"302 http://storage.localhost/files/{number}/{Path(name).name}?{SIGNATURE}"


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of `files`; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _unpacked(name: str, content: bytes) -> dict[str, bytes]:
    """What Kaggle keeps of an uploaded file: the files of an archive, in a folder of its name; else the file."""
    stem = re.sub(r"\.(zip|tar|tar\.gz)$", "", name)
    if stem == name:
        return {name: content}
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {f"{stem}/{inner}": archive.read(inner) for inner in archive.namelist()}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {f"{stem}/{member.name}": tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def _told(one: Submission) -> dict[str, Any]:
    return {
        "ref": one.ref,
        "fileName": one.file,
        "date": "2026-11-24T00:00:00Z",
        "description": one.description,
        "status": one.status,
        "publicScore": one.public,
        "privateScore": "",
        "errorDescription": one.error,
    }


class _Handler(BaseHTTPRequestHandler):
    kaggle: FakeKaggle
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def do_POST(self) -> None:
        method = urlsplit(self.path).path.rsplit("/", 1)[-1]
        body = json.loads(self._body() or b"{}")
        with self.kaggle.lock:
            self.kaggle.calls.append((method, body))
            trouble = self._next(method)
            try:
                user = self._user() if method != "IntrospectToken" else ""
                if trouble is not None and not trouble.after:
                    return self._fail(trouble)
                answer = getattr(self.kaggle, method)(user, body)
            except Refused as refused:
                return self._answer(refused.status, {"code": refused.status, "message": refused.message})
        if trouble is not None:
            return self._fail(trouble)
        if isinstance(answer, str):
            return self._reply(302, b"", {"Location": answer.removeprefix("302 ")})
        return self._answer(200, answer)

    def do_PUT(self) -> None:
        blob = self.kaggle.blobs[urlsplit(self.path).path.rsplit("/", 1)[-1]]
        said = self.headers.get("Content-Range", "")
        if said.startswith("bytes */"):  # how much is there?
            self._body()
            stored = {"Range": f"bytes=0-{len(blob.content) - 1}"} if blob.content else {}
            return self._reply(200 if blob.whole else 308, b"", {} if blob.whole else stored)
        trouble = self._next("PUT")
        if trouble is not None and not trouble.status:
            blob.content = self.rfile.read(min(trouble.keep, int(self.headers.get("Content-Length", 0))))
            return self._fail(trouble)
        content = self._body()
        start = int(said.split()[1].split("-")[0]) if said else 0
        if trouble is not None:
            blob.content = blob.content[:start] + content[: trouble.keep]
            return self._fail(trouble)
        blob.content = blob.content[:start] + content
        blob.whole = len(blob.content) == blob.size
        return self._reply(200 if blob.whole else 400, b"", {})

    def do_GET(self) -> None:
        _, content = self.kaggle.downloads[urlsplit(self.path).path.split("/")[-2]]
        assert "X-Goog-Signature" in parse_qs(urlsplit(self.path).query)
        assert "Authorization" not in self.headers, "a key was sent to another host"
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{hash(content) & 0xFFFFFFFF:08x}"', "Last-Modified": MODIFIED}
        asked, status, part = self.headers.get("Range", ""), 200, content
        if asked and self.headers.get("If-Range") == headers["ETag"]:
            self.kaggle.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            status, part = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        trouble = self._next("GET")
        if trouble is None:
            return self._reply(status, part, headers)
        if trouble.status:
            return self._fail(trouble)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(part[: trouble.keep])
        return self._fail(trouble)

    def _next(self, method: str) -> Trouble | None:
        waiting = self.kaggle.trouble[method]
        return waiting.pop(0) if waiting else None

    def _user(self) -> str:
        kind, _, secret = self.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and secret in self.kaggle.tokens:
            return self.kaggle.tokens[secret]
        if kind == "Basic":
            name, _, key = base64.b64decode(secret).decode().partition(":")
            if self.kaggle.users.get(name) == key:
                return name
        raise Refused(401, "Unauthenticated")

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _fail(self, trouble: Trouble) -> None:
        if trouble.status:
            return self._answer(trouble.status, {"code": trouble.status, "message": trouble.message}, trouble.headers)
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()
        return None

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)
