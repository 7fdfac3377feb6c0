"""What a client is told when a request can't be answered: OpenAI's error object, our code in it."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from tunesmith.errors import ConfigError, DataError, ServeError, TunesmithError

# Our code -> HTTP status, OpenAI's `type`, OpenAI's `code` where clients know one.
KINDS: dict[str, tuple[int, str, str]] = {
    "S110": (400, "invalid_request_error", "invalid_json"),
    "S111": (400, "invalid_request_error", "invalid_value"),
    "S112": (404, "invalid_request_error", "model_not_found"),
    "S113": (404, "invalid_request_error", "unknown_url"),
    "S114": (401, "authentication_error", "invalid_api_key"),
    "S115": (403, "permission_error", "origin_not_allowed"),
    "S116": (413, "invalid_request_error", "request_too_large"),
    "S117": (415, "invalid_request_error", "unsupported_media_type"),
    "S118": (429, "rate_limit_error", "queue_full"),
    "S119": (503, "server_error", "shutting_down"),
    "S120": (504, "server_error", "timeout"),
    "S121": (400, "invalid_request_error", "model_cannot"),
    "S122": (500, "server_error", "engine_failed"),
    "S123": (400, "invalid_request_error", "context_length_exceeded"),
    "S124": (400, "invalid_request_error", "unsupported_parameter"),
    "S125": (408, "invalid_request_error", "request_timeout"),
    "S126": (408, "invalid_request_error", "slow_client"),
}
PHRASES = {
    "C210": ("S111", "sampling"),
    "G124": ("S124", "response_format"),
    "G125": ("S124", "response_format"),
    "G126": ("S124", "response_format"),
    "G121": ("S123", "messages"),
    "D401": ("S123", "messages"),
    "D402": ("S111", "prompt"),
}
"""Errors of the engine that are the request's fault, with ours and the field they speak of."""
HEADER_BYTES = 32 * 1024
"""Names and values of all headers of a request and its address, at most."""


class Refusal(ServeError):
    """A request that is refused or broken off.

    Args:
        code: One of `KINDS`.
        what: What the client is told; never a path or a traceback.
        param: The field it is about, or empty.
        headers: More headers of the answer.
        status: Instead of the kind's own.
        fix: What to do instead.
    """

    def __init__(
        self,
        code: str,
        what: str,
        param: str = "",
        *,
        fix: str = "",
        status: int | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(code, what, where=param, fix=fix)
        self.param = param
        self.status, self.type, self.name = KINDS[code]
        self.status = status or self.status
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        message = f"{self.what}; {self.fix}" if self.fix else self.what
        return {
            "error": {
                "message": message,
                "type": self.type,
                "param": self.param or None,
                "code": self.name,
                "tunesmith": self.code,
            }
        }

    def response(self) -> Response:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def queue_full(limit: int) -> Refusal:
    """The answer to more than the queue holds."""
    return Refusal(
        "S118",
        f"the server answers or queues {limit} requests at most and is full",
        fix="try again in a moment",
        headers={"retry-after": "1"},
    )


def never(count: int, limit: int) -> Refusal:
    """The answer to what the queue could not hold if it were empty."""
    return Refusal(
        "S116",
        f"this asks for {count} answers, and the server has {limit} in hand at most",
        fix="ask for them in several requests",
    )


def long_headers() -> Refusal:
    what = f"the headers have more than {HEADER_BYTES:,} bytes"
    return Refusal("S116", what, status=431, headers={"connection": "close"})


def draining() -> Refusal:
    return Refusal("S119", "the server is shutting down", headers={"retry-after": "5"})


def timed_out(seconds: float) -> Refusal:
    """The client must not try at once what just took too long."""
    return Refusal(
        "S120",
        f"the answer was not finished within {seconds:g} seconds",
        fix="ask for fewer tokens",
        headers={"x-should-retry": "false"},
    )


def failed() -> Refusal:
    return Refusal("S122", "the engine failed on this request; the server's log says why")


def not_finite() -> Refusal:
    return Refusal("S122", "the model's output is not finite (R230): its weights are damaged")


def of_error(error: TunesmithError, param: str) -> Refusal:
    """An error of engine or template as the client sees it; `param`: the field with the prompt."""
    if isinstance(error, Refusal):
        return error
    if error.code in PHRASES:
        code, at = PHRASES[error.code]
        field = _field_of(error.what) or at if error.code == "C210" else param
        # A schema's or pattern's own words say which keyword it is; they are the client's.
        why = f": {error.why}" if error.code in ("G125", "G126") and error.why else ""
        return Refusal(code, error.what + why, field, fix=error.fix)
    if isinstance(error, DataError):
        fix = "" if error.code == "D302" else error.fix
        return Refusal("S111", error.what, param, fix=fix)
    if isinstance(error, ConfigError):  # what an engine can't honour is the request's matter
        return Refusal("S124", error.what, param)
    return failed()


def _field_of(what: str) -> str:
    """The field that a C210 names: `temperature is -1`, or `… honour `adapter` of a request`."""
    quoted = what.split("`")
    word = quoted[1] if len(quoted) > 2 else what.split(" ", 1)[0]
    return {"constraint": "response_format", "adapter": "model", "beams": "use_beam_search"}.get(
        word, word if word.isidentifier() and len(word) > 3 else ""
    )
