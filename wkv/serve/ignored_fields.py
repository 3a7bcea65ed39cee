"""Report of the fields of a request that had no effect: a header, and a metric."""

from collections.abc import Sequence

from starlette.responses import Response

from wkv.serve.protocol.errors import ApiError
from wkv.serve.service import Service

HEADER = "x-wkv-ignored"
"""Header of a response with the names of the ignored fields."""

MAX_NAMES, MAX_CHARACTERS = 20, 60
"""Limits of what the header repeats."""


def check_ignored(service: Service, names: Sequence[str]) -> None:
    """Refuse fields without effect if the server is strict.

    Raises:
        ApiError: names the first one.
    """
    if names and service.settings.strict:
        name = names[0][:MAX_CHARACTERS]
        message = f"the field {name!r} has no effect here, and this server is strict; leave it out"
        raise ApiError(400, message, param=name, code="unknown_field")


def with_ignored(service: Service, names: Sequence[str], response: Response) -> Response:
    """Report ignored fields in the header of a response, and count them."""
    if names:
        shown = [name[:MAX_CHARACTERS] for name in names[:MAX_NAMES]]
        response.headers[HEADER] = ", ".join(shown).encode("ascii", "replace").decode()
        service.metrics.ignored_fields.inc(len(names))
    return response
