"""Telling the gateway: what it answers decides what a person is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from training.errors import PublishError
from training.reload import reload_gateway

Answer = Callable[..., str]


@pytest.fixture
def gateway() -> Iterator[Answer]:
    """Make a server that gives one answer to every reload; returns its address."""
    servers: list[HTTPServer] = []

    def make(body: Any, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/admin/reload"
                status_now = status if self.headers["Authorization"] == "Bearer key" else 401
                self.send_response(status_now)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_experts_now_served_are_named(gateway: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "key")
    url = gateway({"experts": ["baking", "tea"], "rejected": []})
    assert reload_gateway(url, tmp_path, ["tea"]) == f"the gateway at {url} serves baking, tea"


def test_the_key_that_the_gateway_made_is_found(
    gateway: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_ADMIN_KEY", raising=False)
    (tmp_path / "admin.key").write_text("key\n", encoding="utf-8")
    assert "serves tea" in reload_gateway(gateway({"experts": ["tea"], "rejected": []}), tmp_path, ["tea"])


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (
            {"experts": [], "rejected": [{"name": "tea", "reason": "trained on base X"}]},
            200,
            "published, but the gateway at .* does not serve tea: trained on base X",
        ),
        ({"experts": ["baking"], "rejected": []}, 200, "does not know tea: does it read another experts directory"),
        (
            {"error": {"code": "router_not_renewed", "message": "auto decides as before: no encoder"}},
            500,
            "published, but the gateway at .* serves by name only: auto decides as before: no encoder",
        ),
        ({"error": "no"}, 500, 'refused to reload: 500 {"error": "no"}'),
    ],
)
def test_a_gateway_that_does_not_serve_it_is_an_error(
    gateway: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Any, status: int, message: str
) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "key")
    with pytest.raises(PublishError, match=message):
        reload_gateway(gateway(body, status), tmp_path, ["tea"])


def test_a_wrong_key_is_an_error(gateway: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "another")
    with pytest.raises(PublishError, match="does not take the admin key of GATEWAY_ADMIN_KEY: set "):
        reload_gateway(gateway({}), tmp_path, ["tea"])
    monkeypatch.delenv("GATEWAY_ADMIN_KEY")
    with pytest.raises(PublishError, match=r"wants an admin key, and .*/admin\.key has none: set "):
        reload_gateway(gateway({}), tmp_path, ["tea"])
    (tmp_path / "admin.key").write_text("of another cache", encoding="utf-8")
    with pytest.raises(PublishError, match=r"does not take the admin key of .*/admin\.key: .* --cache-dir "):
        reload_gateway(gateway({}), tmp_path, ["tea"])


def test_no_gateway_is_no_error(tmp_path: Path) -> None:
    assert reload_gateway("http://127.0.0.1:9", tmp_path, ["tea"]) == "no gateway is running at http://127.0.0.1:9"
