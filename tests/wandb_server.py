"""A server that answers as much of the W&B protocol as a run needs, until it is told to fall silent."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = {
    "id": "b", "name": "run", "displayName": "n", "description": "", "config": "{}", "sweepName": None,
    "historyLineCount": 0, "project": {"id": "p", "name": "farkas-layers", "entity": {"id": "e", "name": "me"}},
}  # fmt: skip
ANSWER = {
    "viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {"max_cli_version": "1.0.0"}, "features": []},
    "upsertBucket": {"inserted": True, "bucket": BUCKET},
    "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []},
    "model": None,
}
"""One answer to every question: a client reads only what it has asked for."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._reply()

    def do_GET(self) -> None:
        self._reply()

    def _reply(self) -> None:
        self.server.speaking.wait()  # type: ignore[attr-defined]
        body = json.dumps({"data": ANSWER}).encode()
        try:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client is gone

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def wandb_server() -> Iterator[tuple[str, threading.Event]]:
    """The server's address, and the event that it speaks while it is set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.speaking = threading.Event()  # type: ignore[attr-defined]
    server.speaking.set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.speaking  # type: ignore[attr-defined]
    finally:
        server.speaking.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
