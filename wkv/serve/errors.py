"""Errors as clients of the OpenAI API know them: `{"error": {message, type, param, code}}`."""

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from wkv.errors import (
    BusyError,
    InputError,
    MissingExtraError,
    StateError,
    TokenizerError,
    WKVError,
)

RETRY_SECONDS = 2

TYPE_NAME = re.compile(r"\[|constrained|^(str|int|float|bool|TextPart|function-.*|literal.*)$")
"""What pydantic puts into the path of a problem: which of several types it tried."""

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

LONGEST = 200
"""Characters of what a client sent that are told back."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
        kinds |= {413: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}
        default = "invalid_request_error" if self.status < 500 else "server_error"
        told = {
            "message": str(self),
            "type": kinds.get(self.status, default),
            "param": self.param,
            "code": self.code,
        }
        return {"error": told}

    @property
    def answer(self) -> JSONResponse:
        """The answer itself."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def as_api_error(error: WKVError) -> ApiError:
    """What an error of the package means to a client."""
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="busy", retry_after=RETRY_SECONDS)
    if isinstance(error, (InputError, StateError, TokenizerError, MissingExtraError)):
        return ApiError(400, str(error))
    return ApiError(500, str(error))


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the one form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.answer

    @app.exception_handler(WKVError)
    async def wkv_error(_: Request, error: WKVError) -> JSONResponse:
        return as_api_error(error).answer

    @app.exception_handler(RequestValidationError)
    async def wrong_body(_: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error(error.errors()).answer

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        answer = ApiError(error.status_code, str(error.detail)).answer
        answer.headers.update(error.headers or {})
        if error.status_code == 405:  # Starlette tells the methods of one route only
            answer.headers["Allow"] = ", ".join(_methods(app, request))
        return answer

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        answer = ApiError(500, f"the server failed: {type(error).__name__}").answer
        answer.headers["Connection"] = "close"  # uvicorn closes it after an error of this kind
        return answer


def _methods(app: FastAPI, request: Request) -> list[str]:
    """The methods that a path takes."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in app.routes)

    return [method for method in METHODS if takes(method)]


def validation_error(problems: Sequence[Any]) -> ApiError:
    """The first thing that is wrong with a body; a field that is unknown before all others.

    Where a field may be one of several types each of them complains; the deepest complaint is
    about the type that was meant.
    """
    parts = [p for p in problems if any("TextPart" in str(part) for part in p["loc"])]
    kinds = [p for p in parts if p["loc"][-1] == "type" and p["type"] == "literal_error"]
    if kinds:
        param = _path(kinds[0])
        return ApiError(
            400,
            f"{param}: a part of the type {kinds[0]['input']!r:.40} cannot be read, only text",
            param=param,
            code="invalid_value",
        )
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    worst = unknown[0] if unknown else max(problems, key=lambda problem: len(problem["loc"]))
    param = _path(worst)
    if unknown:
        return ApiError(
            400,
            f"the field {param!r} is not supported; leave it out",
            param=param,
            code="unknown_field",
        )
    if worst["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {worst['ctx']['error']}", code="invalid_json")
    told = worst["msg"].removeprefix("Value error, ")[:LONGEST]
    if param is None and worst["type"] != "value_error":
        message = "the body is no JSON object; send one, with 'Content-Type: application/json'"
        return ApiError(400, message, code="invalid_json")
    where = f"{param}: " if param else "the body: "
    return ApiError(400, f"{where}{told}", param=param, code="invalid_value")


def _path(problem: Any) -> str | None:
    """Where a problem is, by the names that the client knows."""
    parts = [str(part) for part in problem["loc"] if part != "body"]
    known = [part for part in parts if not TYPE_NAME.search(part)]
    return ".".join(known)[:LONGEST] or None
