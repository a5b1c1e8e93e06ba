"""What every test gets: no network beyond this machine, no settings of the person who runs it."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_kaggle import FakeKaggle
from tests.waiting import Forks

# Two test processes share two cores (pytest-xdist): one thread each. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LOOPBACK = ("127.", "::1", "localhost")


def _is_here(address: Any) -> bool:
    """Unix sockets are paths; internet addresses are tuples that begin with the host."""
    return isinstance(address, str | bytes) or str(address[0]).startswith(LOOPBACK)


@pytest.fixture(autouse=True)
def _this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections and name look-ups that leave the machine, and forget where the user keeps things."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(real: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if not _is_here(address):
                raise OSError(f"tests have no network: {address}")
            return real(self, address)

        return call

    def guarded_look_up(host: Any, *arguments: Any, **named: Any) -> Any:
        if host is not None and not _is_here((host.decode() if isinstance(host, bytes) else host,)):
            raise socket.gaierror(f"tests have no network: {host}")
        return look_up(host, *arguments, **named)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in list(os.environ):
        if name in ("KIT_HOME", "KIT_INPUT") or name.startswith("KAGGLE_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_wheel_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled package that a bundle must carry is an empty wheel with the name that pip would give it."""

    def stand_in(folder: Path, package: str, version: str, image: Any) -> str:
        name = f"{package.replace('-', '_')}-{version}-cp312-cp312-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(folder / name, "w"):
            return name

    monkeypatch.setattr("kit.shipping.wheels._downloaded", stand_in)


@pytest.fixture(scope="session")
def _client_stays_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Refuse to go on unless the real client, in the environment that tests give it, would ask this machine alone."""
    from kit.shipping import kaggle_child
    from kit.shipping.kaggle import ask

    with FakeKaggle() as server, pytest.MonkeyPatch.context() as patch:
        _settle(patch, server, tmp_path_factory.mktemp("client"))
        endpoint = ask(kaggle_child.whoami)["endpoint"]
    if not re.fullmatch(r"http://(localhost|127\.0\.0\.1)(:\d+)?", endpoint):
        pytest.exit(f"the kaggle client would ask {endpoint}: no test may run with it", 1)


def _settle(patch: pytest.MonkeyPatch, server: FakeKaggle, home: Path) -> None:
    """This process, and the client's with it: at home in an empty folder, with the test user's key and no proxy but
    the server."""
    for name in list(os.environ):
        if name.startswith(("KAGGLE_", "VERBOSE")) or name.lower().endswith("_proxy") or name == "XDG_CONFIG_HOME":
            patch.delenv(name)
    for name, value in server.environment(home).items():
        patch.setenv(name, value)
    patch.setattr(tempfile, "tempdir", str(home))
    patch.setenv("KAGGLE_USERNAME", "tester")
    patch.setenv("KAGGLE_KEY", server.users["tester"])


@pytest.fixture(scope="session")
def _forks() -> Iterator[Forks]:
    """The process from which the client's are forked."""
    forks = Forks()
    yield forks
    forks.end()


@pytest.fixture
def kaggle_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _client_stays_here: None, _forks: Forks
) -> Iterator[FakeKaggle]:
    """A Kaggle on the loopback that the real client is sent to, with a home of its own, polled without pauses."""
    monkeypatch.setattr("kit.shipping.kaggle.subprocess", _forks)
    home = tmp_path / "client-home"
    home.mkdir()
    monkeypatch.setattr("kit.shipping.kaggle.PAUSE", 0.01)
    with FakeKaggle() as server:
        _settle(monkeypatch, server, home)
        yield server
    assert server.faults == []
