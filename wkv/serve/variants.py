"""The variants of a served model: with a named tuned state, or with a named adapter.

A request chooses one with `model: "BASE:NAME"`, where NAME is a state or an adapter, and may also
name a state with `state: NAME`. "BASE:latest" is the model itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.models.state import State
from wkv.serve.protocol.errors import ApiError

NAME = re.compile(r"(?!state-[0-9a-f]{32}$)\w[\w.-]{0,63}")
"""Names of variants, which differ from the ids of the states that users save."""

LATEST = "latest"
"""A reserved name: the model itself, as other servers write it."""


@dataclass(frozen=True)
class Variant:
    """A variant that a request names.

    Attributes:
        model: the name of the model that responses contain.
        adapter: the name of the adapter; None without one.
        state: the name of the tuned state; None without one.
    """

    model: str
    adapter: str | None = None
    state: str | None = None


class Variants:
    """The tuned states and adapters of a served model.

    Attributes:
        base: the name of the model.
        names: the names of all variants: states, then adapters.
        states: the tuned states by name.
        default: the state that requests without a state begin from; None: the empty state.
    """

    def __init__(
        self,
        base: str,
        model: Model,
        states: Mapping[str, State] | None = None,
        default: State | None = None,
    ) -> None:
        """Collect the variants.

        Raises:
            InputError: if a name is reserved, or is given twice.
        """
        self.base = base
        self.states = dict(states or {})
        self.default = default
        self.names = (*self.states, *model.adapters)
        for name in self.names:
            check_name(name)
            if self.names.count(name) > 1:
                raise InputError(
                    f"{name!r} is the name of a state and of an adapter; give each its own name"
                )
        self._model = model
        starts = [*self.states.values(), *([] if default is None else [default])]
        self._digests = {id(state): state.digest[:32] for state in starts}

    def find(self, name: str | None) -> Variant:
        """Return the variant that a request's `model` names; without a name, the model itself.

        Raises:
            ApiError: if there is no such model or variant.
        """
        if name in (None, "", self.base, f"{self.base}:{LATEST}"):
            return Variant(self.base)
        base, _, variant = str(name).rpartition(":")
        if base == self.base and variant in self.states:
            return Variant(str(name), state=variant)
        if base == self.base and variant in self._model.adapters:
            return Variant(str(name), adapter=variant)
        expected = ", ".join([repr(self.base), *(f"{self.base}:{one}" for one in self.names)])
        message = f"the model {str(name)[:100]!r} is not served here, expected {expected}"
        raise ApiError(404, message, param="model", code="model_not_found")

    def start(self, variant: Variant, state: str | None) -> tuple[State | None, str]:
        """Return the state from which the conversations of a variant begin, and a key for it.

        The key is "" for the empty state of the model. It identifies the model with its adapter,
        and the values of the state, for caches.

        Args:
            variant: the variant.
            state: the name of a tuned state in the request, or None.

        Raises:
            ApiError: if the variant has another state.
        """
        if variant.state is not None and state not in (None, variant.state):
            message = f"the model {variant.model} begins with the state {variant.state}, not with "
            raise ApiError(400, f"{message}{state}; name one of them", param="state")
        name = state or variant.state
        found = self.default if name is None else self.states[name]
        if found is None:
            if variant.adapter is None:
                return None, ""
            return self._model.new_state(adapter=variant.adapter), self._identity(variant)
        digest = self._digests[id(found)]
        return self.with_adapter(variant, found), f"{self._identity(variant)}.{digest}"

    def with_adapter(self, variant: Variant, state: State) -> State:
        """Return a state for use with a variant.

        A tuned state that has read nothing may begin with any adapter.

        Raises:
            ApiError: if it has read tokens, or was tuned, with another adapter.
        """
        identity = self._identity(variant)
        used = state.row_adapters[0]
        if not identity or used == identity:
            return state
        if used or any(state.tokens_seen):
            message = f"the state was made without the adapter {variant.adapter}; name the model "
            raise ApiError(400, f"{message}that made it, or another state", param="state")
        return replace(state, adapters=(identity,) * state.batch_size)

    def _identity(self, variant: Variant) -> str:
        return "" if variant.adapter is None else self._model.adapters[variant.adapter]


def check_name(name: str) -> None:
    """Check the name of a state or an adapter.

    Raises:
        InputError: if it is reserved, or has characters that no name may have.
    """
    if NAME.fullmatch(name) is None or name == LATEST:
        raise InputError(
            f"{name!r} cannot be the name of a state or an adapter: expected letters, digits, "
            f"'.', '_' and '-', at most 64, and not {LATEST!r}"
        )
