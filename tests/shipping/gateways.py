"""A host's gateway, written to what is known of kaggle_evaluation, and an adapter that answers it."""

from __future__ import annotations

from pathlib import Path

from tests.shipping.conftest import World

GATEWAY = '''
"""A stand-in for a host's kaggle_evaluation: batches go over a socket to the notebook's function, as there."""

import io
import json
import os
import threading
from multiprocessing.connection import Client, Listener
from pathlib import Path

import pandas as pd


class TilesInferenceServer:
    def __init__(self, predict):
        self.predict = predict
        self.listener = Listener(("127.0.0.1", 0))

    def serve(self):
        """Answer until the gateway says that it is done. No pickle: rows as JSON."""
        with self.listener, self.listener.accept() as line:
            while (asked := line.recv_bytes()) != b"done":
                try:
                    table = self.predict(*json.loads(asked))
                    said = {"table": table.to_json(orient="split")}
                except Exception as error:
                    said = {"error": f"{type(error).__name__}: {error}"}
                line.send_bytes(json.dumps(said).encode())

    def run_local_gateway(self, paths):
        """The host's gateway, in a thread: two images a batch; a batch must come back with as many rows."""
        server = threading.Thread(target=self.serve)
        server.start()
        try:
            gateway(self.listener.address, Path(paths[0]))
        finally:
            server.join()


def gateway(address, data):
    files = sorted(path.name for path in (data / "test").glob("*.png"))
    tables = []
    with Client(address) as line:
        try:
            for first in range(0, len(files), 2):
                line.send_bytes(json.dumps([files[first : first + 2], str(data / "test")]).encode())
                said = json.loads(line.recv_bytes())
                if "error" in said:
                    raise RuntimeError("SERVER_RAISED_EXCEPTION " + said["error"])
                table = pd.read_json(io.StringIO(said["table"]), orient="split", dtype=False)
                if len(table) != len(files[first : first + 2]):
                    raise RuntimeError("INVALID_SUBMISSION")
                tables.append(table)
        finally:
            line.send_bytes(b"done")
    pd.concat(tables).to_csv("submission.csv", index=False)
'''
SERVED = """
    def serve_frame(self, data, names, folder):
        from pathlib import Path

        ids = [name.removesuffix(".png") for name in names]
        return pd.DataFrame({"sample_id": ids, "path": names}), Path(folder)
"""


def write_gateway(data: Path) -> Path:
    """Put the host's package among its files; returns their folder."""
    package = data / "kaggle_evaluation"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tiles_server.py").write_text(GATEWAY)
    return data


def adapter_that_serves(world: World) -> str:
    """The world's adapter, in a competition of kind "server"."""
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    rules = "Rules(kind='server', server='kaggle_evaluation.tiles_server.TilesInferenceServer')"
    return adapter.replace("Rules(minutes=30, test_rows=50_000)", rules) + SERVED
