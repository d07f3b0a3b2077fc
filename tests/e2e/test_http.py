"""What no SDK shows: curl, raw headers, CORS, methods, request ids, limits, metrics."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import httpx
import pytest
from processes import GatewayProcess, eventually
from prometheus_client.parser import text_string_to_metric_families

HELLO = {"model": "base", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


def post(gateway: GatewayProcess, path: str = "/v1/chat/completions", **kwargs: Any) -> httpx.Response:
    return httpx.post(f"{gateway.url}{path}", timeout=200, **kwargs)


def envelope(response: httpx.Response) -> Any:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["code"], str)
    return body["error"]


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sS", "--max-time", "200", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_curl_of_the_ready_line_works_as_printed(gateway: GatewayProcess) -> None:
    lines = gateway.log.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("curl "))
    command = "\n".join(lines[start : start + 2])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=250)
    answer = json.loads(done.stdout)
    assert answer["model"] == "baking"
    assert answer["choices"][0]["message"]["content"]


def test_curl_streams_server_sent_events(gateway: GatewayProcess) -> None:
    body = json.dumps({**HELLO, "stream": True})
    text = curl("-N", "-i", f"{gateway.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body)
    head, _, stream = text.replace("\r\n", "\n").partition("\n\n")
    assert "200 OK" in head
    assert "content-type: text/event-stream" in head.lower()
    assert "cache-control: no-cache" in head.lower()
    assert "x-pointsman-expert: base" in head.lower()
    assert "content-encoding" not in head.lower()
    events = [event for event in stream.split("\n\n") if event.strip()]
    assert all(event.startswith(("data: ", ":")) for event in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[:-1] if event.startswith("data: ")]
    assert all({"id", "object", "created", "model", "choices"} <= set(chunk) for chunk in chunks)
    assert "pointsman" in chunks[0]
    assert not any("pointsman" in chunk for chunk in chunks[1:])


def test_a_plain_answer_is_json_and_never_sse(gateway: GatewayProcess) -> None:
    answer = post(gateway, json={**HELLO, "stream": False})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["message"]["refusal"] is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/nothing", "/v1/models"])
def test_every_answer_has_a_request_id_and_keeps_the_clients_own(gateway: GatewayProcess, path: str) -> None:
    given = httpx.get(f"{gateway.url}{path}", headers={"x-request-id": "mine-1"})
    assert given.headers.get_list("x-request-id") == ["mine-1"]
    made = httpx.get(f"{gateway.url}{path}", headers={"x-request-id": "not\tplain " + "x" * 200})
    assert made.headers["x-request-id"].startswith("req_")


def test_a_browser_may_ask_with_any_header_and_read_ours(gateway: GatewayProcess) -> None:
    asked = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    headers = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    preflight = httpx.options(f"{gateway.url}/v1/chat/completions", headers=headers)
    assert preflight.status_code in (200, 204)
    assert preflight.headers["access-control-allow-origin"] in ("*", "https://example.org")
    allowed = {name.strip().lower() for name in preflight.headers["access-control-allow-headers"].split(",")}
    assert set(asked.split(",")) <= allowed
    answer = post(gateway, json=HELLO, headers={"origin": "https://example.org"})
    assert answer.headers["access-control-allow-origin"] in ("*", "https://example.org")
    exposed = answer.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("x-request-id", "x-pointsman-expert", "x-pointsman-score", "retry-after"))
    stream = post(gateway, json={**HELLO, "stream": True}, headers={"origin": "https://example.org"})
    assert len(stream.headers.get_list("access-control-allow-origin")) == 1


def test_unknown_paths_and_methods_have_the_envelope(gateway: GatewayProcess) -> None:
    missing = httpx.get(f"{gateway.url}/v1/nothing")
    assert (missing.status_code, envelope(missing)["code"]) == (404, "not_found")
    wrong = httpx.get(f"{gateway.url}/v1/chat/completions")
    assert (wrong.status_code, envelope(wrong)["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(gateway: GatewayProcess, content: bytes) -> None:
    answer = post(gateway, content=content)
    assert answer.status_code == 400
    envelope(answer)


def test_a_body_over_the_limit_is_refused(gateway: GatewayProcess) -> None:
    answer = post(gateway, content=b"x" * (8 * 1024 * 1024 + 1))
    assert (answer.status_code, envelope(answer)["code"]) == (413, "request_too_large")


def test_the_dry_run_decides_as_live_traffic_does(gateway: GatewayProcess) -> None:
    text = "Which telescope should I buy to see the rings of Saturn?"
    by_input = post(gateway, "/v1/route", json={"input": text}).json()
    by_messages = post(gateway, "/v1/route", json={"messages": [{"role": "user", "content": text}]}).json()
    assert by_input["expert"] == by_messages["expert"] == "stargazing"
    assert by_input["reason"] == "routed"
    assert set(by_input["scores"]) == {"baking", "cycling", "gardening", "stargazing"}
    assert by_input["score"] >= by_input["threshold"]
    live = post(gateway, json={"messages": [{"role": "user", "content": text}], "max_tokens": 1})
    assert live.headers["x-pointsman-expert"] == "stargazing"
    assert float(live.headers["x-pointsman-score"]) == pytest.approx(by_input["score"], abs=1e-3)
    explained = post(gateway, "/v1/route", json={"input": text, "explain": True}).json()
    assert explained["score"] == by_input["score"]
    assert explained["explanation"]["why"].startswith("'stargazing' scores")
    assert explained["explanation"]["nearest"][0]["route"] == "stargazing"


def test_health_and_ready(gateway: GatewayProcess) -> None:
    assert httpx.get(f"{gateway.url}/health").json()["status"] == "ok"
    ready = httpx.get(f"{gateway.url}/ready", timeout=60)
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_the_admin_endpoints_need_the_admin_key(gateway: GatewayProcess) -> None:
    for method, path in (("GET", "status"), ("GET", "experts"), ("POST", "reload"), ("POST", "experts/baking/disable")):
        answer = httpx.request(method, f"{gateway.url}/admin/{path}")
        assert answer.status_code == 401
        assert envelope(answer)["code"] == "invalid_api_key"


def test_a_disabled_expert_is_neither_listed_nor_served_and_comes_back(gateway: GatewayProcess) -> None:
    question = {"messages": [{"role": "user", "content": "Why did my sourdough bread not rise?"}], "max_tokens": 1}
    assert gateway.admin("POST", "experts/baking/disable") == {"name": "baking", "enabled": False}
    try:
        listed = [row["id"] for row in httpx.get(f"{gateway.url}/v1/models").json()["data"]]
        assert "baking" not in listed
        named = post(gateway, json={**question, "model": "baking"})
        assert named.status_code == 404
        assert "disabled" in envelope(named)["message"]
        routed = post(gateway, json={**question, "model": "auto"})
        assert routed.headers["x-pointsman-expert"] == "base"
        assert routed.headers["x-pointsman-reason"] == "fallback"
    finally:
        gateway.admin("POST", "experts/baking/enable")
    assert post(gateway, json={**question, "model": "auto"}).headers["x-pointsman-expert"] == "baking"


def test_metrics_parse_and_hold_the_promised_series(gateway: GatewayProcess) -> None:
    post(gateway, json={**HELLO, "model": "auto"})
    post(gateway, json={**HELLO, "model": "cycling"})
    post(gateway, json={**HELLO, "model": "nobody"})
    eventually(gateway.at_rest, 5, "a gateway at rest")
    text = httpx.get(f"{gateway.url}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    promised = {
        "requests", "errors", "requests_in_flight", "decisions", "route_score", "route_seconds", "queue_wait_seconds",
        "route_abstentions", "route_threshold", "second_readings",
        "queue_length", "leases_held", "active_expert", "backend_up", "swaps", "swap_seconds", "engine_restarts",
        "time_to_first_token_seconds", "time_per_output_token_seconds", "request_duration_seconds", "tokens", "experts",
    }  # fmt: skip
    assert {f"pointsman_{name}" for name in promised} <= set(families)
    assert gateway.metric("pointsman_requests_total", expert="cycling", status="200") >= 1
    assert gateway.metric("pointsman_errors_total", code="model_not_found") >= 1
    assert gateway.metric("pointsman_decisions_total", expert="cycling", reason="named") >= 1
    assert gateway.metric("pointsman_swaps_total", expert="cycling") >= 1
    assert gateway.metric("pointsman_time_to_first_token_seconds_count", expert="cycling") >= 1
    assert gateway.metric("pointsman_tokens_total", expert="cycling", type="completion") >= 1
    assert gateway.metric("pointsman_experts", state="enabled") == 4
    assert gateway.metric("pointsman_backend_up") == 1
    assert "nobody" not in text, "a client's string became a label"


def test_the_log_says_who_served_and_never_what_was_asked(gateway: GatewayProcess) -> None:
    secret = "my secret recipe for sourdough bread"
    post(gateway, json={"messages": [{"role": "user", "content": secret}], "max_tokens": 1})
    line = eventually(lambda: [row for row in gateway.log.splitlines() if "expert=baking" in row], 5, "a log line")[-1]
    assert "status=200" in line
    assert secret not in gateway.log
