"""Tools that a request offers, which of them must be called, and the calls it tells of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.errors import InputError

MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: letters, digits, _ and -.
        description: what it does, or "".
        parameters: JSON schema of its arguments, an object.
        strict: whether the schema must be followed to the letter; else what of it cannot be
            followed is ignored.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools are called: "none", "auto" (the model chooses), "required", or "named".

    Attributes:
        mode: one of these.
        name: the tool that must be called, where it is named.
    """

    mode: str
    name: str = ""

    @property
    def is_forced(self) -> bool:
        """Whether the reply must be a call."""
        return self.mode in ("required", "named")

    @classmethod
    def of(cls, value: Any, tools: Sequence[Tool]) -> "ToolChoice":
        """What a request's `tool_choice` says; None: auto, if there are tools.

        Raises:
            InputError: if it is none of the known, or names no tool.
        """
        if value is None:
            return cls("auto" if tools else "none")
        if isinstance(value, dict) and value.get("type") == "function":
            function = value.get("function")
            name = function.get("name") if isinstance(function, dict) else value.get("name")
            if name not in [tool.name for tool in tools]:
                raise InputError(f"tool_choice names {name!r:.80}, which is not among the tools")
            return cls("named", name)
        if not isinstance(value, str) or value not in MODES:
            raise InputError(
                f"tool_choice is {value!r:.80}, expected one of {', '.join(MODES)}, or "
                '{"type": "function", "function": {"name": ...}}'
            )
        if value == "required" and not tools:
            raise InputError("tool_choice is 'required', but there are no tools; give some")
        return cls(value)

    def offered(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """The tools that may be called."""
        if self.mode == "none":
            return ()
        return tuple(tool for tool in tools if self.mode != "named" or tool.name == self.name)


@dataclass(frozen=True)
class Call:
    """A call that was made: the tool's name, and its arguments as JSON text."""

    name: str
    arguments: str
