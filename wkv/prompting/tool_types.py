"""Types for tools: the functions that a request offers, the choice among them, and calls."""

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
        description: a text for the model, or "".
        parameters: JSON schema of the arguments, an object.
        strict: refuse keywords of the schema that are not supported, instead of ignoring them.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True)
class ToolChoice:
    """The choice whether and which tools are called.

    Attributes:
        mode: "none", "auto" (the model chooses), "required" (any tool) or "named" (one tool).
        name: the tool that must be called, if the mode is "named".
    """

    mode: str
    name: str = ""

    @property
    def is_forced(self) -> bool:
        """Whether the reply must be a tool call."""
        return self.mode in ("required", "named")

    @classmethod
    def of(cls, value: Any, tools: Sequence[Tool]) -> "ToolChoice":
        """Parse the `tool_choice` of a request; None means "auto" if there are tools.

        Raises:
            InputError: if the value is unknown, or names a tool that does not exist.
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
        """Return the tools that may be called."""
        if self.mode == "none":
            return ()
        return tuple(tool for tool in tools if self.mode != "named" or tool.name == self.name)


@dataclass(frozen=True)
class Call:
    """A call of a tool: its name, and the arguments as JSON text."""

    name: str
    arguments: str
