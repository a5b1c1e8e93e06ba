"""What the kit asks of the `kaggle` client, each by a process of its own that runs this file: `main(job, result)`.

The client talks to Kaggle while it is imported, prints what it likes, may end the process and reads every KAGGLE_
variable; `kit.shipping.kaggle` gives it a process in which that does no harm. The functions below are what can be
asked. They return plain JSON and judge nothing; only they import the client, and nothing here imports the kit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMEOUT = (30, 300)
"""Seconds to connect, and between two bytes: the client itself waits for ever."""
PAGE = 200
SOURCES = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources")
"""What a notebook can have as inputs, as kernel-metadata.json calls them."""


def whoami(api: Any) -> dict[str, str]:
    """Who Kaggle takes us for: user, method, endpoint, version of the client."""
    import kaggle

    with api.build_kaggle_client() as client:
        endpoint = client.http_client()._endpoint
    method = str(api.config_values["auth_method"]).rsplit(".", 1)[-1]
    return {
        "user": api.config_values["username"],
        "method": method,
        "endpoint": endpoint,
        "client": kaggle.__version__,
    }


def archive_of(api: Any, slug: str) -> dict[str, Any]:
    """What Kaggle says of a competition's archive, which is not downloaded: {"size", "tag"}."""
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

    request = ApiDownloadDataFilesRequest()
    request.competition_name = slug
    with api.build_kaggle_client() as client:
        response = client.competitions.competition_api_client.download_data_files(request)
        with response:
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            return {"size": int(response.headers.get("Content-Length", 0)), "tag": tag}


def download_competition(api: Any, slug: str, folder: str) -> str:
    """Download a competition's archive into `folder`, or the rest of it; returns the file's path."""
    download = api.download_file
    # Retries are the parent's, which goes on in the same file.
    api.download_file = lambda *arguments: download(*arguments, max_retries=0)
    api.competition_download_files(slug, path=folder, quiet=False)
    return next(str(path) for path in Path(folder).iterdir() if path.stem == slug)


def dataset(api: Any, owner: str, slug: str) -> dict[str, Any]:
    """{"status", "version"} of a dataset; Kaggle answers 403 where there is none."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest, ApiGetDatasetStatusRequest

    status, whole = ApiGetDatasetStatusRequest(), ApiGetDatasetRequest()
    for request in (status, whole):
        request.owner_slug, request.dataset_slug = owner, slug
    with api.build_kaggle_client() as client:
        service = client.datasets.dataset_api_client
        return {
            "status": service.get_dataset_status(status).status.name,
            "version": service.get_dataset(whole).current_version_number,
        }


def dataset_files(api: Any, owner: str, slug: str) -> dict[str, int]:
    """Name and size of each stored file."""

    def page(token: str) -> Any:
        return api.dataset_list_files(f"{owner}/{slug}", page_token=token, page_size=PAGE)

    return {file.name: file.total_bytes for each in _pages(page) for file in each.dataset_files}


def download_dataset_file(api: Any, owner: str, slug: str, name: str, folder: str) -> str:
    """Download one file of a dataset's latest version; returns its path."""
    api.dataset_download_file(f"{owner}/{slug}", name, path=folder, force=True, unzip=True)
    return str(Path(folder) / name)


def create_dataset(api: Any, folder: str) -> dict[str, Any]:
    """Upload `folder` as a new private dataset, as its dataset-metadata.json says."""
    return _created(api.dataset_create_new(folder, public=False, dir_mode="skip"))


def create_dataset_version(api: Any, folder: str, notes: str) -> dict[str, Any]:
    """Upload `folder` as the next version of its dataset: it replaces every file."""
    return _created(api.dataset_create_version(folder, notes, dir_mode="skip"))


def push_kernel(api: Any, folder: str, seconds: int | None = None) -> dict[str, Any]:
    """Push the notebook in `folder`, as its kernel-metadata.json says, and run it for at most `seconds`."""
    pushed = api.kernels_push(folder, timeout=seconds)
    invalid = {kind: list(getattr(pushed, f"invalid_{kind}")) for kind in ("tags", *SOURCES)}
    return {
        "url": pushed.url,
        "version": pushed.version_number,
        "error": pushed.error or "",
        "invalid": {kind: names for kind, names in invalid.items() if names},
    }


def kernel(api: Any, kernel: str) -> dict[str, Any]:
    """{"version"} and each kind of SOURCES of a notebook's last version."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = kernel.split("/")
    with api.build_kaggle_client() as client:
        found = client.kernels.kernels_api_client.get_kernel(request).metadata
    sources = {kind: list(getattr(found, kind.replace("_", "_data_"))) for kind in SOURCES}
    return {"version": found.current_version_number, **sources}


def kernel_status(api: Any, kernel: str, version: int) -> dict[str, str]:
    """{"status", "failure"} of the run of one version of a notebook."""
    found = api.kernels_status(f"{kernel}/{version}")
    return {"status": found.status.name, "failure": found.failure_message or ""}


def kernel_log(api: Any, kernel: str, version: int) -> str:
    """The log of a run, as Kaggle keeps it: JSON."""
    return str(api.kernels_logs(f"{kernel}/{version}"))


def download_kernel_output(api: Any, kernel: str, version: int, folder: str, pattern: str | None = None) -> list[str]:
    """Download the files that a run left, those whose names match `pattern` where it is given; returns their paths."""
    files, _ = api.kernels_output(f"{kernel}/{version}", folder, file_pattern=pattern, page_size=PAGE)
    return list(files)


def quota(api: Any) -> dict[str, Any]:
    """Seconds of GPU time: {"used", "allowed", "renewed"} (when, as ISO text)."""
    found = api.quota_view()
    gpu = found.gpu_quota
    return {
        "used": gpu.time_used.total_seconds() if gpu.time_used else 0.0,
        "allowed": gpu.total_time_allowed.total_seconds() if gpu.total_time_allowed else 0.0,
        "renewed": found.quota_refresh_time.isoformat() if found.quota_refresh_time else "",
    }


def limits(api: Any, slug: str) -> dict[str, int]:
    """Submissions of the team: {"today", "total", "allowed"}."""
    found = api.competition_get_submission_limits(slug)
    return {"today": found.num_today, "total": found.num_total, "allowed": found.num_allowed_now}


def submit_kernel(api: Any, slug: str, kernel: str, version: int, file: str, message: str) -> dict[str, Any]:
    """Submit what a version of a notebook writes; {"ref", "message"}."""
    made = api.competition_submit_code(file, message, slug, kernel, version, quiet=True)
    return {"ref": made.ref, "message": made.message}


def submit_file(api: Any, slug: str, file: str, message: str) -> dict[str, Any]:
    """Submit a file; {"ref", "message"}. A ref of 0: the upload failed, and nothing was submitted."""
    made = api.competition_submit(file, message, slug, quiet=True)
    return {"ref": made.ref, "message": made.message}


def submission(api: Any, ref: int) -> dict[str, Any]:
    """A submission by its reference: {"ref", "status", "description", "public", "error"}."""
    return _submission(api.get_submission(ref))


def submissions(api: Any, slug: str) -> list[dict[str, Any]]:
    """The latest submissions to a competition."""
    return [_submission(one) for one in api.competition_submissions(slug) or []]


def _submission(one: Any) -> dict[str, Any]:
    return {
        "ref": one.ref,
        "status": one.status.name,
        "description": one.description or "",
        "public": one.public_score or "",
        "error": one.error_description or "",
    }


def _created(made: Any) -> dict[str, Any]:
    return {"url": made.url, "status": made.status, "error": made.error or "", "invalid": list(made.invalid_tags)}


def _pages(page: Any) -> Iterator[Any]:
    """Every page of a list, by the tokens that name the next."""
    token = ""
    while True:
        found = page(token)
        yield found
        token = found.next_page_token
        if not token:
            return


class NoCredentials(Exception):
    """The client found nothing to log in with."""


class TokenRefused(Exception):
    """Kaggle refused an access token, which the client sends all the same; its argument says where it lies."""


def connect() -> Any:
    """The client, logged in. Raises NoCredentials, TokenRefused, or whatever the log-in met."""
    import requests

    send = requests.adapters.HTTPAdapter.send

    def send_in_time(self: Any, request: Any, **named: Any) -> Any:
        return send(self, request, **{**named, "timeout": named.get("timeout") or TIMEOUT})

    requests.adapters.HTTPAdapter.send = send_in_time  # type: ignore[assignment,method-assign]
    import kaggle  # logs in, and swallows what goes wrong
    from kagglesdk import get_access_token_from_env

    api = kaggle.api
    token, source = get_access_token_from_env()
    if "auth_method" not in api.config_values:
        try:
            api.authenticate()
        except SystemExit:
            raise TokenRefused(source) if token else NoCredentials from None
    if token and str(api.config_values["auth_method"]).endswith("LEGACY_API_KEY"):
        raise TokenRefused(source)
    # A call that was refused for its rate did not happen; any other may have, and the parent asks before it repeats it.
    api._is_retriable = api._is_rate_limited
    return api


def fault_of(error: BaseException) -> dict[str, Any]:
    """An error as JSON: its kind (credentials, token, http, network, disk, client), and what tells more."""
    import requests

    if isinstance(error, NoCredentials):
        return {"kind": "credentials"}
    if isinstance(error, TokenRefused):
        return {"kind": "token", "message": str(error)}
    at: BaseException | None = error
    while at is not None:  # the client hides some HTTP errors behind a ValueError
        if isinstance(at, requests.HTTPError) and at.response is not None:
            return {"kind": "http", "status": at.response.status_code, "message": str(at)}
        at = at.__cause__ or at.__context__
    kind = (
        "network"
        if isinstance(error, requests.RequestException)
        else "disk"
        if isinstance(error, OSError)
        else "client"
    )
    return {"kind": kind, "message": f"{type(error).__name__}: {error}"}


def main(job_file: str, result_file: str) -> None:
    """Read the job, ask, write {"value": ...} or {"fault": ...}."""
    job = json.loads(Path(job_file).read_text())
    try:
        answer = {"value": globals()[job["operation"]](connect(), **job["arguments"])}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the client raises is told
        answer = {"fault": fault_of(error)}
    Path(result_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
