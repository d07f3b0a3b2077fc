"""The error tree and the one shape every error has on the wire."""

from __future__ import annotations

import inspect

import pytest

from gateway import errors
from gateway.errors import GatewayError, error_body

TREE = {
    "GatewayError": ("Exception", 500, "server_error", "internal_error"),
    "ConfigError": ("GatewayError", 500, "server_error", "config_error"),
    "ManifestError": ("ConfigError", 500, "server_error", "manifest_error"),
    "DownloadError": ("GatewayError", 500, "server_error", "download_error"),
    "InvalidRequest": ("GatewayError", 400, "invalid_request_error", "invalid_request"),
    "ExpertNotFound": ("GatewayError", 404, "invalid_request_error", "model_not_found"),
    "AuthenticationError": ("GatewayError", 401, "authentication_error", "invalid_api_key"),
    "RateLimited": ("GatewayError", 429, "rate_limit_error", "rate_limit_exceeded"),
    "QueueFull": ("GatewayError", 429, "rate_limit_error", "queue_full"),
    "LeaseTimeout": ("GatewayError", 503, "server_error", "queue_timeout"),
    "RouterNotRenewed": ("GatewayError", 500, "server_error", "router_not_renewed"),
    "ShuttingDown": ("GatewayError", 503, "server_error", "shutting_down"),
    "BackendError": ("GatewayError", 502, "server_error", "backend_error"),
    "BackendUnavailable": ("BackendError", 502, "server_error", "backend_unavailable"),
    "BackendTimeout": ("BackendError", 504, "server_error", "backend_timeout"),
    "BackendStartError": ("BackendError", 503, "server_error", "backend_start_error"),
    "BackendRefused": ("BackendError", 502, "invalid_request_error", "invalid_request"),
}


def test_the_envelope_is_openais_with_all_four_keys_in_order() -> None:
    body = error_body("what", "server_error", None)
    assert body == {"error": {"message": "what", "type": "server_error", "param": None, "code": None}}
    assert list(body["error"]) == ["message", "type", "param", "code"]


def test_no_error_is_missing_from_the_table() -> None:
    found = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, GatewayError)}
    assert found == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_each_error_has_its_place_status_type_and_code(name: str) -> None:
    kind = getattr(errors, name)
    parent, status, type_, code = TREE[name]
    assert kind.__base__.__name__ == parent
    error = kind("what")
    assert (error.status, str(error), error.retry_after_s) == (status, "what", None)
    assert error.body() == error_body("what", type_, code)


def test_status_code_and_param_can_be_given() -> None:
    error = GatewayError("what", status=418, code="teapot", param="kettle", retry_after_s=2)
    assert (error.status, error.retry_after_s) == (418, 2)
    assert error.body()["error"] == {"message": "what", "type": "server_error", "param": "kettle", "code": "teapot"}
    assert GatewayError("next").status == 500
