"""A Whimbrel server of the test's own: the real binary as `standalone --ephemeral`, ended by its process id."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import demo_token
from whimbrel_client import Client

READY_WITHIN_S = 30
# A drain gives clients 10 s to leave and ends everybody after 30 s.
ENDS_WITHIN_S = 40
DEFAULT_BINARY = Path(__file__).resolve().parents[2] / "target" / "debug" / "whimbrel"


class Server:
    """The running binary. `stop` it."""

    def __init__(self) -> None:
        binary = Path(os.environ.get("WHIMBREL_BIN", DEFAULT_BINARY))
        if not binary.exists():
            if "WHIMBREL_BIN" in os.environ:
                raise FileNotFoundError(f"WHIMBREL_BIN names {binary}, which does not exist")
            raise unittest.SkipTest(f"no server binary at {binary}: run `cargo build -p whimbrel`")
        self._folder = tempfile.TemporaryDirectory()
        ready_file = Path(self._folder.name) / "ready.json"
        self._log = open(Path(self._folder.name) / "server.log", "wb+")
        self.process = subprocess.Popen(
            [binary, "standalone", "--ephemeral", "--port-base", "0", "--ready-file", ready_file],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        give_up_at = time.monotonic() + READY_WITHIN_S
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace")
                self.stop()
                raise RuntimeError(f"the server did not start; it said:\n{said}")
            time.sleep(0.02)
        self.ready = json.loads(ready_file.read_text())
        self._wait_for_gateway(give_up_at)
        self.secret = Path(self.ready["app_secret_file"]).read_bytes().strip()

    def _wait_for_gateway(self, give_up_at: float) -> None:
        """Until the LBS knows the gateway, which a client would wait for by itself, but for seconds."""
        while True:
            try:
                urllib.request.urlopen(f"{self.ready['lbs']}/readyz", timeout=READY_WITHIN_S).close()
                return
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > give_up_at:
                    self.stop()
                    raise
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server, gently and then not."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_WITHIN_S)
        self.process.kill()
        self.process.wait()
        self._log.close()
        self._folder.cleanup()

    def token(self, uid: str, ttl_s: int = 3600) -> str:
        return demo_token.sign(self.secret, self.ready["app_key"], uid, ttl_s)

    def client(self, uid: str, **options: object) -> Client:
        """A client of `uid`, not connected yet."""
        settings = {
            "lbs": [self.ready["lbs"]],
            "root_keys": [self.ready["root_key"]],
            "app_key": self.ready["app_key"],
            "uid": uid,
            "token": lambda: self.token(uid),
        }
        return Client(**(settings | options))
