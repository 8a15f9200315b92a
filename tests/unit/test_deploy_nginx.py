"""The stack's door: what it passes to whom, what it keeps to itself, and what it says when nobody answers."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.servers.nginx import CONFIGURATION, NginxServer
from tests.servers.ports import free_ports

SIGNED = "X-Amz-Date=x&X-Amz-Signature=" + "a" * 64


class Upstream(BaseHTTPRequestHandler):
    """Tells what reached it; `server.name` is who it is."""

    protocol_version = "HTTP/1.1"

    @property
    def named(self) -> Named:
        assert isinstance(self.server, Named)
        return self.server

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        first = self.rfile.read(min(5, size))
        self.named.first_bytes.put(first)
        self._answer(len(first) + len(self.rfile.read(size - len(first))))

    def do_GET(self) -> None:
        if self.path == "/sse":
            self._stream()
        else:
            self._answer(0)

    def do_PUT(self) -> None:
        self.do_POST()

    def _answer(self, read: int) -> None:
        told = {"name": self.named.name, "path": self.path, "read": read}
        body = json.dumps(told | {"headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/mcp" and "Mcp-Session-Id" not in self.headers:
            self.send_header("Mcp-Session-Id", f"session-of-{self.named.name}-{id(body)}")
        if self.path == "/v1/models":
            self.send_header("X-Request-Id", "req_of_the_facade")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(f"data: {self.named.name}\n\n".encode())
        self.wfile.flush()
        assert self.named.read_on.wait(20)
        self.wfile.write(b"data: end\n\n")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        return


class Named(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name: str, first_bytes: queue.Queue[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Upstream)
        self.name = name
        self.read_on = threading.Event()
        self.first_bytes = first_bytes

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@dataclass
class Door:
    nginx: NginxServer
    servers: dict[str, Named]
    first_bytes: queue.Queue[bytes]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """One request; an answer that is no JSON comes back as text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            data = answer.read()
            fields = {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()
        try:
            return answer.status, fields, json.loads(data)
        except ValueError:
            return answer.status, fields, data.decode()


@pytest.fixture(scope="module")
def door(scratch: Path) -> Iterator[Door]:
    """nginx before two MCP servers, a facade and a blob store."""
    with ExitStack() as stack:
        first: queue.Queue[bytes] = queue.Queue()
        names = ("a", "b", "facade", "s3")
        servers = {name: stack.enter_context(Named(name, first)) for name in names}
        for server in servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        upstreams = {
            "mcp": [servers["a"].port, servers["b"].port],
            "facade": [servers["facade"].port],
            "s3": [servers["s3"].port],
        }
        nginx = stack.enter_context(NginxServer(scratch / "door", upstreams))
        yield Door(nginx, servers, first)


def test_nginx_accepts_the_configuration(door: Door) -> None:
    checked = door.nginx.check()
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr


def test_each_path_reaches_its_role(door: Door) -> None:
    data = ("/mcp", "/links/t", "/uploads/u", "/v1/files", "/v1/files/f/content", "/v1/uploads")
    data += ("/v1/vector_stores", "/v1/vector_stores/v/files")
    face = ("/v1/models", "/v1/filesystems", "/readyz", "/")
    reached = {path: door.ask("GET", path)[2]["name"] for path in (*data, *face)}
    assert {reached[path] for path in data} <= {"a", "b"}
    assert {reached[path] for path in face} == {"facade"}


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1", "//metrics", "/x/../metrics"])
def test_metrics_are_not_public(door: Door, path: str) -> None:
    assert door.ask("GET", path)[0] == 404


def test_a_request_arrives_under_its_own_host_and_with_what_nginx_knows(door: Door) -> None:
    _, _, told = door.ask(
        "POST",
        "/v1/chat/completions",
        b"{}",
        Host="isthmus.example:8443",
        Authorization="Bearer k",
        X_Forwarded_For="6.6.6.6",
        X_Real_IP="6.6.6.6",
        X_Forwarded_Host="evil.example",
        Forwarded="for=6.6.6.6",
    )
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert headers["host"] == headers["x-forwarded-host"] == "isthmus.example:8443"
    assert headers["authorization"] == "Bearer k"
    assert headers["x-forwarded-for"] == headers["x-real-ip"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert len(headers["x-request-id"]) == 32
    assert "forwarded" not in headers


@pytest.mark.parametrize(("path", "passed"), [("/v1/responses", True), ("/v1/models", False)])
def test_an_upgrade_is_passed_on_for_responses_only(door: Door, path: str, passed: bool) -> None:
    told = door.ask("GET", path, Upgrade="websocket", Connection="Upgrade")[2]
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert (headers.get("upgrade"), headers.get("connection") == "upgrade") == (
        ("websocket", True) if passed else (None, False)
    )


def test_every_answer_has_one_request_id_and_the_security_headers(door: Door) -> None:
    _, own, told = door.ask("GET", "/mcp")
    assert own["x-request-id"] == told["headers"]["X-Request-Id"]
    _, facade, _ = door.ask("GET", "/v1/models")
    assert facade["x-request-id"] == "req_of_the_facade"
    for headers in (own, facade, door.ask("GET", "/metrics")[1]):
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers.get("server", "nginx") == "nginx" or "BaseHTTP" in headers["server"]


def test_a_session_stays_with_its_server_and_the_new_era_goes_anywhere(door: Door) -> None:
    served: set[str] = set()
    for _ in range(12):
        _, headers, told = door.ask("POST", "/mcp", b"{}")
        served.add(told["name"])
        session = headers["mcp-session-id"]
        again = {
            door.ask("POST", "/mcp", b"{}", Mcp_Session_Id=session)[2]["name"] for _ in range(4)
        }
        assert again == {told["name"]}
    assert served == {"a", "b"}


def test_a_legacy_stream_and_its_messages_share_a_server_and_nothing_is_held_back(
    door: Door,
) -> None:
    served: set[str] = set()
    for number in range(40):  # ports are others each time, so that few might all come to one server
        key = f"Bearer key-{number}"
        connection = http.client.HTTPConnection("127.0.0.1", door.nginx.port, timeout=20)
        connection.request("GET", "/sse", headers={"Authorization": key})
        stream = connection.getresponse()
        # The first event is here although the stream goes on.
        name = stream.readline().decode().removeprefix("data: ").strip()
        served.add(name)
        posted = door.ask("POST", "/messages/?session_id=1", b"{}", Authorization=key)[2]
        assert posted["name"] == name
        door.servers[name].read_on.set()
        assert b"data: end" in stream.read()
        door.servers[name].read_on.clear()
        connection.close()
    assert served == {"a", "b"}


def test_an_upload_reaches_the_server_while_it_is_sent(door: Door) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.nginx.port, timeout=20)
    size = 40 * 1024 * 1024  # more than any other request may have
    connection.putrequest("PUT", "/uploads/u")
    connection.putheader("Content-Length", str(size))
    connection.putheader("Authorization", "Bearer k")
    connection.endheaders()
    connection.send(b"first")
    while door.first_bytes.get(timeout=20) != b"first":
        """What earlier requests brought."""
    for _ in range(39):
        connection.send(bytes(1024 * 1024))
    connection.send(bytes(1024 * 1024 - 5))
    assert json.loads(connection.getresponse().read())["read"] == size
    connection.close()


def test_a_body_that_no_server_takes_is_refused_in_the_form_of_its_client(door: Door) -> None:
    large = bytes(34 * 1024 * 1024)
    status, _, body = door.ask("POST", "/mcp", large)
    assert (status, body["jsonrpc"], body["id"], body["error"]["code"]) == (
        413,
        "2.0",
        None,
        -32600,
    )
    status, _, body = door.ask("POST", "/v1/chat/completions", large)
    assert (status, body["error"]["type"]) == (413, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/isthmus-objects/ns/blob?{SIGNED}", 200),
        ("PUT", f"/isthmus-objects/ns/blob?{SIGNED}", 200),
        ("GET", "/isthmus-objects/ns/blob", 403),
        ("GET", "/isthmus-objects/?list-type=2", 403),
        ("GET", "/isthmus-objects/ns/blob?X-Amz-Signature=", 403),
        ("DELETE", f"/isthmus-objects/ns/blob?{SIGNED}", 403),
        ("POST", f"/isthmus-objects/ns/blob?{SIGNED}", 403),
    ],
)
def test_the_blob_store_is_reached_by_signed_links_only(
    door: Door, method: str, path: str, status: int
) -> None:
    got, _, told = door.ask(method, path, Host="isthmus.example")
    assert got == status
    if got == 200:
        # A signature covers both.
        assert (told["name"], told["path"]) == ("s3", path)
        assert told["headers"]["Host"] == "isthmus.example"


def test_the_log_holds_no_key_no_ticket_and_no_query(door: Door) -> None:
    door.ask("GET", "/links/a-ticket-that-opens?q=a-word", Authorization="Bearer a-key")
    door.ask("GET", f"/isthmus-objects/ns/blob?{SIGNED}")
    door.ask("GET", "/mcp?q=a-word")
    log = door.nginx.folder / "access.log"
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"/links/-", "/mcp", "/isthmus-objects/ns/blob"} <= {line["path"] for line in lines}
    assert not [word for word in ("a-ticket", "a-key", "a-word", "a" * 64) if word in text]


@pytest.fixture(scope="module")
def deserted(scratch: Path) -> Iterator[Door]:
    """nginx before servers that are not there, with a small rate."""
    dead = free_ports(4)
    upstreams = {"mcp": dead[:2], "facade": dead[2:3], "s3": dead[3:]}
    text = CONFIGURATION.read_text(encoding="utf-8")
    text = text.replace("rate=200r/s", "rate=1r/m").replace("burst=400", "burst=4")
    with NginxServer(scratch / "deserted", upstreams, text) as nginx:
        yield Door(nginx, {}, queue.Queue())


def test_an_outage_has_the_form_of_each_client(deserted: Door) -> None:
    status, headers, body = deserted.ask("POST", "/mcp", b"{}", Authorization="Bearer 1")
    assert (status, headers["content-type"]) == (503, "application/json")
    assert headers["retry-after"] == "1"
    assert (body["jsonrpc"], body["id"], body["error"]["code"]) == ("2.0", None, -32603)
    assert body["error"]["message"].startswith("unavailable: ")
    status, _, body = deserted.ask("POST", "/v1/chat/completions", b"{}", Authorization="Bearer 1")
    assert (status, body["error"]["type"], body["error"]["code"]) == (
        503,
        "server_error",
        "unavailable",
    )
    for path in ("/", "/links/t", "/uploads/u", f"/isthmus-objects/b?{SIGNED}"):
        status, headers, body = deserted.ask("GET", path, Authorization=f"Bearer {path}")
        assert (status, body["error"]) == (503, "unavailable"), path
        assert headers["x-content-type-options"] == "nosniff"


def test_one_key_has_its_rate_and_leaves_the_others_theirs(deserted: Door) -> None:
    ask = deserted.ask
    greedy = [ask("POST", "/mcp", b"{}", Authorization="Bearer greedy") for _ in range(8)]
    assert [status for status, _, _ in greedy] == [503] * 5 + [429] * 3
    _, headers, body = greedy[-1]
    assert headers["retry-after"] == "1"
    assert body["error"]["code"] == -32029
    assert body["error"]["data"] == {"retry_after_seconds": 1}
    status, _, body = ask("GET", "/v1/models", Authorization="Bearer greedy")
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert ask("POST", "/mcp", b"{}", Authorization="Bearer modest")[0] == 503
