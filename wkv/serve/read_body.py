"""Reading of request bodies: parsed and validated in a worker thread, with limits.

A body of 16 MB may contain a million values, whose validation takes seconds. In a worker thread it
does not stop the streams of other clients, and the limits are checked before any value is
validated.
"""

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, cast

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from wkv.serve.protocol.errors import ApiError

MAX_OBJECTS = 50_000
"""The largest number of JSON objects in a body: 10,000 messages with some parts each."""

MAX_MEMBERS = 4096
"""The largest number of members of one JSON object."""

MAX_STRINGS = 300_000
"""The largest number of strings in a body, names of members included.

They are counted before the body is parsed: Python's parser stops all threads until it has finished
an object, which takes a second for a million members.
"""

JSON_TYPE = re.compile(r"application/(.+\+)?json")

Json = dict[str, Any]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class BodyRoute(APIRoute):
    """A route whose JSON body is parsed and validated in a worker thread.

    FastAPI itself would do both in the event loop, in which all streams run.
    """

    def get_route_handler(self) -> Handler:
        """Return a handler that passes the validated body to FastAPI's handler."""
        handler = super().get_route_handler()
        field = self.body_field
        if field is None:
            return handler
        body_type = cast(type[BaseModel], field.field_info.annotation)

        async def handle(request: Request) -> Response:
            try:
                data = await request.body()
            except ClientDisconnect as error:
                raise HTTPException(400, "the client disconnected") from error
            if data and _is_json(request):
                request = _ValidatedRequest(request, data)
                request.validated = await run_in_threadpool(validated, body_type, data)
            return await handler(request)

        return handle


class _ValidatedRequest(Request):
    """A request whose body was validated; FastAPI accepts the object in place of its JSON."""

    validated: BaseModel

    def __init__(self, request: Request, data: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = data

    async def json(self) -> Any:
        """Return the validated body."""
        return self.validated


def validated(body_type: type[BaseModel], data: bytes) -> BaseModel:
    """Parse and validate a body.

    Raises:
        ApiError: if it is not valid JSON, or larger than the limits.
        RequestValidationError: if the object is invalid.
    """
    try:
        return body_type.model_validate(parse_json(data))
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def parse_json(data: bytes) -> Any:
    """Parse JSON with limits; NaN and infinite numbers are refused.

    Raises:
        ApiError: if it is not valid JSON, or larger than the limits.
    """
    strings = (data.count(b'"') - data.count(b'\\"')) // 2
    if strings > MAX_STRINGS:
        found = f"the body contains {strings} strings, at most {MAX_STRINGS}"
        raise ApiError(400, f"{found}; send fewer members or parts", code="body_too_complex")
    try:
        return json.loads(
            data,
            object_pairs_hook=_ObjectLimit(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)[:200]
    raise ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json")


class _ObjectLimit:
    """Creates the objects of a body, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, members: list[tuple[str, Any]]) -> Json:
        """Return an object with these members.

        Raises:
            ApiError: if it has too many members, or there are too many objects.
        """
        self._count += 1
        if len(members) > MAX_MEMBERS:
            found = f"an object of the body has {len(members)} members, at most {MAX_MEMBERS}"
            raise ApiError(400, f"{found}; send fewer", code="body_too_complex")
        if self._count > MAX_OBJECTS:
            found = f"the body contains more than {MAX_OBJECTS} JSON objects"
            raise ApiError(400, f"{found}; send fewer messages or parts", code="body_too_complex")
        return dict(members)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON; send a finite number or null")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large; send a smaller one")
    return number


def _is_json(request: Request) -> bool:
    """Return whether the Content-Type is JSON. Browsers ask before they send this type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return JSON_TYPE.fullmatch(kind) is not None
