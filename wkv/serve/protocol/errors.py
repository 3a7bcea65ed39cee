"""Errors in the format of the OpenAI API: `{"error": {message, type, param, code}}`."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
"""Parts that pydantic adds to a location: the tried alternative of a union."""

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")

MAX_QUOTED = 200
"""Characters of a client's data that an error message repeats."""

ERROR_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}

ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

Location = tuple[str | int, ...]


class ApiError(Exception):
    """An error response."""

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
        """The JSON body of the response."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": str(self),
                "type": ERROR_TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def anthropic_body(self) -> dict[str, Any]:
        """The JSON body of the response in the format of Anthropic's API."""
        default = "invalid_request_error" if self.status < 500 else "api_error"
        kind = ANTHROPIC_TYPES.get(self.status, default)
        return {"type": "error", "error": {"type": kind, "message": str(self)}}

    @property
    def response(self) -> JSONResponse:
        """The response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def as_api_error(error: WKVError) -> ApiError:
    """Convert an error of the package to an error response."""
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="busy", retry_after=RETRY_SECONDS)
    if isinstance(error, (InputError, StateError, TokenizerError, MissingExtraError)):
        return ApiError(400, str(error))
    return ApiError(500, str(error))


@contextmanager
def naming(param: str) -> Iterator[None]:
    """Convert an InputError to an error response that names the field `param`."""
    try:
        yield
    except InputError as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="invalid_value") from error


def add_error_handlers(app: FastAPI) -> None:
    """Send every error of an application as an error response."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response

    @app.exception_handler(WKVError)
    async def wkv_error(_: Request, error: WKVError) -> JSONResponse:
        return as_api_error(error).response

    @app.exception_handler(RequestValidationError)
    async def invalid_body(_: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error(error.errors()).response

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404 and message == "Not Found":
            path = request.scope["path"][:MAX_QUOTED]
            message = f"there is no path {path!r}; GET /docs lists all paths"
        if request.method == "OPTIONS" and "origin" in request.headers:
            message = "requests from other websites are not allowed; see --allow-origin"
        response = ApiError(error.status_code, message).response
        response.headers.update(error.headers or {})
        if error.status_code == 405:  # Starlette lists the methods of only one route of the path
            response.headers["Allow"] = ", ".join(_methods(app, request))
        return response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        response = ApiError(500, f"the server failed: {type(error).__name__}").response
        response.headers["Connection"] = "close"  # uvicorn closes it after an unhandled error
        return response


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Return the methods that the path of a request allows."""

    def allows(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in app.routes)

    allowed = {method for method in METHODS if allows(method)}
    return sorted(allowed | {"HEAD"} if "GET" in allowed else allowed)


def dotted(location: Location) -> str:
    """Return a location in a body as a path, such as "messages.0.role"."""
    return ".".join(map(str, location))


def validation_error(problems: Sequence[Any], path: Callable[[Location], str] = dotted) -> ApiError:
    """Return an error about one problem of a body; unknown fields come first.

    Args:
        problems: pydantic's list of problems.
        path: returns the path of a location in the body that the client sent.
    """

    def param_of(problem: Any) -> str | None:
        parts = [part for part in problem["loc"] if part != "body"]
        known = tuple(part for part in parts if not TYPE_NAME.search(str(part)))
        return (path(known)[:MAX_QUOTED] or None) if known else None

    parts = [p for p in problems if any("TextPart" in str(part) for part in p["loc"])]
    types = [p for p in parts if p["loc"][-1] == "type" and p["type"] == "literal_error"]
    if types:
        param, found = param_of(types[0]), types[0]["input"]
        message = f"{param}: parts of the type {found!r:.40} are not supported, send text only"
        return ApiError(400, message, param=param, code="invalid_value")
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    worst = (unknown or problems)[0]
    param = param_of(worst)
    if unknown:
        message = f"the field {param!r} is not supported; leave it out"
        return ApiError(400, message, param=param, code="unknown_field")
    if worst["type"] == "json_invalid":
        message = f"the body is not valid JSON: {worst['ctx']['error']}"
        return ApiError(400, message, code="invalid_json")
    if param is None and worst["type"] != "value_error":
        message = "the body is not a JSON object; send one, with 'Content-Type: application/json'"
        return ApiError(400, message, code="invalid_json")
    message = f"{param or 'the body'}{_reason(worst)}"
    return ApiError(400, message, param=param, code="invalid_value")


def _reason(problem: Any) -> str:
    """Return what is wrong with a field, as it follows the name of the field."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "too_long":
            found, limit = context["actual_length"], context["max_length"]
            return f" has {found or 'too many'} entries, at most {limit}"
        case "too_short":
            return f" has {context['actual_length']} entries, at least {context['min_length']}"
        case "missing":
            return " is missing"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f" is {problem['input']!r:.40}, expected an object"
    return f": {problem['msg'].removeprefix('Value error, ')[:MAX_QUOTED]}"
