"""Every error the gateway raises, and the OpenAI error body it becomes.

GatewayError                status, type, code
├─ ConfigError              start-up only; exit code 2
│  └─ ManifestError         an expert that cannot be served; the others go on
├─ DownloadError            a model could not be fetched: the network's or the server's fault; exit code 1
├─ InvalidRequest           400, or the status given
├─ ExpertNotFound           404
├─ AuthenticationError      401 (403 for a key without the right)
├─ RateLimited              429 + Retry-After
├─ QueueFull                429 + Retry-After
├─ LeaseTimeout             503 + Retry-After
├─ ShuttingDown             503
├─ RouterNotRenewed         500: a reload that came half way
└─ BackendError             502
   ├─ BackendUnavailable    502, or 503 + Retry-After while it restarts
   ├─ BackendTimeout        504
   ├─ BackendStartError     503
   └─ BackendRefused        the backend's own 4xx, passed on

Owns names, statuses and the shape of the body; knows nothing of HTTP frameworks. Rendered in ``app.py`` only.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AuthenticationError",
    "BackendError",
    "BackendRefused",
    "BackendStartError",
    "BackendTimeout",
    "BackendUnavailable",
    "ConfigError",
    "DownloadError",
    "ExpertNotFound",
    "GatewayError",
    "InvalidRequest",
    "LeaseTimeout",
    "ManifestError",
    "QueueFull",
    "RateLimited",
    "RouterNotRenewed",
    "ShuttingDown",
    "error_body",
]


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """Build OpenAI's error envelope; all four keys are always present, and ``code`` is a string or null."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


class GatewayError(Exception):
    """Base of all; ``status`` is the HTTP status, ``retry_after_s`` becomes the ``Retry-After`` header."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        return error_body(self.message, self.type, self.code, self.param)


class ConfigError(GatewayError):
    code = "config_error"


class ManifestError(ConfigError):
    code = "manifest_error"


class DownloadError(GatewayError):
    code = "download_error"


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ExpertNotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class AuthenticationError(GatewayError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class RateLimited(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QueueFull(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class LeaseTimeout(GatewayError):
    status = 503
    type = "server_error"
    code = "queue_timeout"


class ShuttingDown(GatewayError):
    status = 503
    type = "server_error"
    code = "shutting_down"


class RouterNotRenewed(GatewayError):
    code = "router_not_renewed"


class BackendError(GatewayError):
    status = 502
    code = "backend_error"


class BackendUnavailable(BackendError):
    code = "backend_unavailable"


class BackendTimeout(BackendError):
    status = 504
    code = "backend_timeout"


class BackendStartError(BackendError):
    status = 503
    code = "backend_start_error"


class BackendRefused(BackendError):
    """The backend's own 4xx: its message, translated to OpenAI's types and string codes."""

    type = "invalid_request_error"
    code = "invalid_request"
