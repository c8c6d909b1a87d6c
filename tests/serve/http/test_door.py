"""Every route and every protocol behind keys, over real sockets; TLS."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trustme

from modelkeep.serve.http.door import scope_of
from modelkeep.serve.protocol import keys
from modelkeep.serve.protocol.keys import Ring
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from tests.waiting import until

ASK = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
ROUTES = [
    ("GET", "/", "read"),
    ("HEAD", "/", "read"),
    ("GET", "/metrics", "read"),
    ("GET", "/v2", "read"),
    ("GET", "/v2/health/live", "read"),
    ("GET", "/v2/health/ready", "read"),
    ("GET", "/v2/models/m", "read"),
    ("GET", "/v2/models/m/ready", "read"),
    ("GET", "/v2/models/m/versions/1", "read"),
    ("POST", "/v2/models/m/infer", "infer"),
    ("POST", "/v2/models/m/versions/1/infer", "infer"),
    ("POST", "/v2/models/m/labels", "infer"),
    ("POST", "/monitor/alerts", "admin"),
    ("POST", "/v2/repository/models/infer", "admin"),
    ("POST", "/v2/models/m/infer/", "admin"),
    ("POST", "//v2/models/m/infer", "admin"),
    ("PUT", "/v2/models/m/infer", "admin"),
    ("DELETE", "/v2/models/m", "admin"),
    ("POST", "/nothing/that/anybody/thought/of", "admin"),
    ("OPTIONS", "/v2", "admin"),
]


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "keys.json")


@pytest.fixture
def tokens(ring: Ring) -> dict[str, str]:
    return {scope: ring.add(scope, [scope]) for scope in ("infer", "read", "admin")}


@pytest.fixture
def server(ring: Ring, tokens: dict[str, str], fakes: SimpleNamespace) -> Iterator[Running]:
    running = Running({"m": fakes.Fake(add=1.0)}, settings=Settings(keys=str(ring.path)))
    with running:
        yield running


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_what_each_route_needs(method: str, path: str, scope: str) -> None:
    assert scope_of(method, path) == scope


def test_no_route_answers_without_the_right_key(server: Running, tokens: dict[str, str]) -> None:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for method, path, scope in ROUTES:
            asked = {"json": ASK} if method == "POST" else {}
            bare = client.request(method, path, **asked)
            assert bare.status_code == 401, path
            assert bare.headers["www-authenticate"].startswith("Bearer")
            assert method == "HEAD" or "Authorization: Bearer KEY" in bare.json()["error"]
            for held, token in tokens.items():
                got = client.request(method, path, headers={"authorization": f"Bearer {token}"}, **asked)
                assert (got.status_code not in (401, 403)) == (held == scope), (path, held)
                assert token not in got.text
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {tokens['read']}"}).text
    assert 'modelkeep_rejections_total{reason="key"}' in metrics
    assert not any(token in metrics for token in tokens.values())


def test_a_first_key_closes_a_running_server_on_every_route(fakes: SimpleNamespace, tmp_path: Path) -> None:
    """docs/keys.md: as soon as there is one, every route asks for it."""
    ring = Ring(Settings(home=tmp_path).keys_file)
    with Running({"m": fakes.Fake()}, settings=Settings(home=tmp_path)) as url, httpx.Client(base_url=url) as client:
        assert client.post("/v2/models/m/infer", json=ASK).status_code == 200
        token = ring.add("web", ["infer"])
        until(lambda: client.post("/v2/models/m/infer", json=ASK).status_code == 401)
        for method, path, _ in ROUTES:
            assert client.request(method, path, **({"json": ASK} if method == "POST" else {})).status_code == 401, path
        kept = {"authorization": f"Bearer {token}"}
        assert client.post("/v2/models/m/infer", json=ASK, headers=kept).status_code == 200


def test_a_refused_body_is_not_taken_for_the_next_request(server: Running, tokens: dict[str, str]) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    inner = f"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tokens['read']}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(f"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: {len(inner) + 10**6}\r\n\r\n{inner}".encode())
        got = b""
        while more := sock.recv(65536):
            got += more
    assert got.startswith(b"HTTP/1.1 401 ")
    assert got.count(b"HTTP/1.1") == 1


def test_above_its_rate_a_key_gets_429(ring: Ring, server: Running) -> None:
    token = ring.add("slow", ["infer"], rate=1)
    server.service.keys._looked = -keys.LOOK_AGAIN  # as if a second had passed
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {token}"}, timeout=20) as client:
        first, second = (client.post("/v2/models/m/infer", json=ASK) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    assert int(second.headers["retry-after"]) >= 1
    assert server.plane.metrics.value("modelkeep_rejections_total", reason="rate") == 1


def test_who_asks_above_its_rate_again_and_again_is_told_in_turn(
    ring: Ring, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = ring.add("slow", ["infer"], rate=1)
    server.service.keys._looked = -keys.LOOK_AGAIN
    sizes: list[int] = []
    monkeypatch.setattr(server.plane.refusals, "pause", lambda size: sizes.append(size) or 0.3)
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {token}"}, timeout=20) as client:
        assert client.post("/v2/models/m/infer", json=ASK).status_code == 200
        began = time.monotonic()
        assert client.post("/v2/models/m/infer", json=ASK).status_code == 429
        assert time.monotonic() - began >= 0.3
        assert client.post("/v2/models/m/infer", content=iter([b"{}"])).status_code == 429
    assert sizes == [len(httpx.Request("POST", "http://x", json=ASK).content), sys.maxsize]


# ── gRPC ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grpc_asks_for_the_same_keys(ring: Ring, tokens: dict[str, str], fakes: SimpleNamespace) -> None:
    import grpc

    from modelkeep.serve.grpc.messages import METHODS, SERVICE, classes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = classes()
    needs = dict.fromkeys(METHODS, "read") | {"ModelInfer": "infer"}
    needs |= dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), "admin")
    settings = Settings(keys=str(ring.path), grpc_port=port)
    with Running({"m": fakes.Fake()}, settings=settings), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name, scope in needs.items():
            call = channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=made[f"{name}Request"].SerializeToString,
                response_deserializer=made[f"{name}Response"].FromString,
            )
            assert _code(call, made[f"{name}Request"](), None) == grpc.StatusCode.UNAUTHENTICATED
            for held, token in tokens.items():
                code = _code(call, made[f"{name}Request"](), token)
                assert (code != grpc.StatusCode.PERMISSION_DENIED) == (held == scope), (name, held)


def _code(call: Any, message: Any, token: str | None) -> Any:
    import grpc

    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        call(message, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# ── TLS, and who can reach the server ────────────────────────────────────────────────────────────────────────────────


def test_tls_over_http_and_grpc(authority: trustme.CA, pem: tuple[str, str], fakes: SimpleNamespace) -> None:
    import grpc

    from modelkeep.serve.grpc.messages import SERVICE, classes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    settings = Settings(tls_cert=pem[0], tls_key=pem[1], grpc_port=port)
    with Running({"m": fakes.Fake(add=1.0)}, settings=settings) as url:
        assert url.startswith("https://")
        reply = httpx.post(f"{url}/v2/models/m/infer", json=ASK, verify=trusting, timeout=20)
        assert reply.json()["outputs"][0]["data"] == [2.0, 3.0]
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http"), timeout=20)
        roots = authority.cert_pem.bytes()
        made = classes()
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(roots)) as channel:
            live = channel.unary_unary(
                f"/{SERVICE}/ServerLive",
                request_serializer=made["ServerLiveRequest"].SerializeToString,
                response_deserializer=made["ServerLiveResponse"].FromString,
            )
            assert live(made["ServerLiveRequest"](), timeout=20).live


def test_old_tls_is_refused(authority: trustme.CA, pem: tuple[str, str], fakes: SimpleNamespace) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(old)
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with Running({"m": fakes.Fake()}, settings=Settings(tls_cert=pem[0], tls_key=pem[1])) as url:
        host, port = url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sock, pytest.raises((ssl.SSLError, OSError)):
            old.wrap_socket(sock, server_hostname="127.0.0.1")


def test_keys_that_were_asked_for_and_are_not_there_let_nobody_in(tmp_path: Path) -> None:
    gate = keys.gate(Settings(keys=str(tmp_path / "none.json")))
    with pytest.raises(Exception, match="API key is missing"):
        gate.admit(None, "read")


# ── applications of others ───────────────────────────────────────────────────────────────────────────────────────────


class Guest:
    """An application that says where it is mounted, and lets in whoever asks."""

    def __init__(self) -> None:
        self.stopped = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        said = f"{scope['root_path']} {scope['path']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})

    def stop(self) -> None:
        self.stopped = True


def test_a_mounted_application_gets_what_is_below_its_path_and_asks_for_keys_itself(
    ring: Ring, tokens: dict[str, str], fakes: SimpleNamespace
) -> None:
    guest, gates = Guest(), []

    def mount(plane: Any, gate: Any) -> Guest:
        gates.append(gate)
        return guest

    running = Running({"m": fakes.Fake()}, settings=Settings(keys=str(ring.path)), mounts={"/guest": mount})
    with running as url, httpx.Client(base_url=url, timeout=20) as client:
        assert client.get("/guest").text == "/guest /guest"
        assert client.get("/guest/a?b=c").text == "/guest /guest/a"
        assert client.get("/guests").status_code == 401
        assert client.get("/v2").status_code == 401
        front = client.get("/", headers={"authorization": f"Bearer {tokens['read']}"}).text
        assert "GET  /guest                              a page to look at" in front
        assert not gates[0].open
        assert gates[0].find(keys.digest(tokens["read"])).name == "read"
        assert gates[0].find("0" * 64) is None
        assert not guest.stopped
    assert guest.stopped
