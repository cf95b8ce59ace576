"""The few calls to the API server that bringing a cluster up takes, without a client library."""

import base64
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.dev.failure import CannotStart

_CALL_SECONDS = 10.0
_ASK_EVERY = 0.05
_UNREACHABLE, _OK = 0, 200


class Client:
    """Speaks as the user of a kubeconfig that holds its own certificates, as those of our clusters do."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        address = urlsplit(cluster["server"])
        self._host, self._port = address.hostname or "", address.port or 443
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:  # readable by us alone; the ssl module takes files only
            for name in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[name]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)

    def wait(self, path: str, seconds: float, *, status: int = 200) -> None:
        """Return when `path` answers with `status`. Raises `CannotStart`."""
        deadline = time.monotonic() + seconds
        while (answered := self.call("GET", path)[0]) != status:
            if time.monotonic() > deadline:
                raise CannotStart(f"The API server answered {path} with {answered or 'nothing'} for {seconds:g} s.")
            time.sleep(_ASK_EVERY)

    def wait_ready(self, node: str, seconds: float) -> None:
        """Return when the node is Ready. Raises `CannotStart` with what the node says of itself."""
        deadline = time.monotonic() + seconds
        while True:
            status, found = self.call("GET", f"/api/v1/nodes/{node}")
            conditions = {each["type"]: each for each in found["status"].get("conditions", [])} if status == 200 else {}
            ready = conditions.get("Ready", {})
            if ready.get("status") == "True":
                return
            if time.monotonic() > deadline:
                raise CannotStart(f"{node} is not Ready after {seconds:g} s: {ready.get('message', 'not registered')}")
            time.sleep(_ASK_EVERY)

    def apply(self, path: str, body: Mapping[str, object]) -> None:
        """Make or change the object at `path` (server-side apply). Raises `CannotStart` with the server's words."""
        status, said = self.call("PATCH", f"{path}?fieldManager=berth-cluster&force=true", body)
        if status not in {200, 201}:
            raise CannotStart(f"{path} was refused: {said.get('message', status)}")

    def changes(self, path: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Watch `path` for so long: each event. Ends early, and silently, when the server does not answer."""
        link = self._connect(seconds + _CALL_SECONDS)
        try:
            link.request("GET", f"{path}?watch=true&timeoutSeconds={seconds:.0f}")
            answer = link.getresponse()
            while answer.status == _OK and (line := answer.readline()):
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError):
            return
        finally:
            link.close()

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and answer; status 0 when nobody answers."""
        link = self._connect(_CALL_SECONDS)
        try:
            headers = {"Content-Type": "application/apply-patch+yaml"} if body is not None else {}
            link.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = link.getresponse()
            said = answer.read()
            parsed = json.loads(said) if answer.headers.get_content_type() == "application/json" else {}
            return answer.status, parsed
        except (OSError, http.client.HTTPException, ValueError):
            return _UNREACHABLE, {}
        finally:
            link.close()

    def _connect(self, seconds: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._tls)
