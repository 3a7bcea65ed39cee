"""Constraints of a reply: its response format, its tools, and the logits processors.

A response format consists of a grammar, which the reply must follow, and an instruction for the
system message, which describes the format to the model.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wkv.constraints.grammar import Grammar, Grammars
from wkv.constraints.schema_limits import checked_json
from wkv.constraints.tool_calls import calls_grammar
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.sequence import DraftGuide, LogitsProcessor
from wkv.prompting.tool_types import Tool, ToolChoice
from wkv.prompting.tools import call_prefix, tools_system
from wkv.serve.protocol.errors import ApiError, naming
from wkv.serve.protocol.requests import (
    ChatRequest,
    GenerationRequest,
    ResponseFormat,
)

MAX_TOOLS = 512
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class ReplyFormat:
    """The format of a reply.

    Attributes:
        grammar: the grammar that the reply must follow, or None.
        tool_names: the names of the tools that may be called.
        assistant_prefix: the beginning of the reply; None leaves it to the thinking mode.
        instruction: text for the system message.
        parallel: whether the reply may contain several calls.
    """

    grammar: Grammar | None = None
    tool_names: tuple[str, ...] = ()
    assistant_prefix: str | None = None
    instruction: str = ""
    parallel: bool = False

    @property
    def forces_call(self) -> bool:
        """Whether the reply must be a tool call."""
        return self.grammar is not None and bool(self.tool_names)


def reply_format_of(body: ChatRequest, grammars: Grammars) -> ReplyFormat:
    """Return the reply format of a request. Compiling its grammar may take seconds.

    Raises:
        ApiError, InputError: if fields contradict each other, or a schema is not supported.
        BusyError: if too many grammars are being compiled.
        MissingExtraError: if llguidance is not installed.
    """
    wanted = body.response_format
    if wanted is None and body.tools is None and body.tool_choice is None:
        return ReplyFormat()
    with naming(body.path("tools")):
        tools = tools_of(body.tools)
    with naming(body.path("tool_choice")):
        choice = ToolChoice.of(body.tool_choice, tools)
    has_format = wanted is not None and wanted.type != "text"
    format_path = body.path("response_format")
    if choice.is_forced and has_format:
        message = f"{body.path('tool_choice')} forces a call, which cannot follow {format_path}"
        raise ApiError(400, f"{message}; leave one of them out", param=format_path)
    if body.ignore_eos and (choice.is_forced or has_format):
        message = "ignore_eos cannot be used with a format or a forced call; leave it out"
        raise ApiError(400, message, param="ignore_eos")
    if wanted is not None and has_format:
        with naming(body.path("response_format", "json_schema", "schema")):
            return _json_format(wanted, grammars, format_path)
    offered = choice.offered(tools)
    if not offered:
        return ReplyFormat()
    # Models are trained to make one call; small ones do not stop if several are allowed.
    parallel = body.parallel_tool_calls is True and choice.mode != "named"
    return ReplyFormat(
        grammar=calls_grammar(grammars, offered, choice, parallel=parallel),
        tool_names=tuple(tool.name for tool in offered),
        assistant_prefix=call_prefix(choice) or None,
        instruction=tools_system(offered, may_answer=not choice.is_forced, parallel=parallel),
        parallel=parallel,
    )


def _json_format(wanted: ResponseFormat, grammars: Grammars, path: str) -> ReplyFormat:
    if wanted.type == "json_object":
        instruction = "Answer with a JSON object only."
        return ReplyFormat(grammars.json_object(), instruction=instruction)
    if wanted.json_schema is None:
        param = f"{path}.json_schema"
        raise ApiError(400, f"{param} is missing; give a JSON schema", param=param)
    schema = wanted.json_schema.schema_
    grammar = grammars.json_schema(schema, lenient=wanted.json_schema.strict is False)
    text = json.dumps(schema, ensure_ascii=False)
    return ReplyFormat(grammar, instruction=f"Answer with JSON only, as this schema says: {text}")


def tools_of(entries: Any) -> tuple[Tool, ...]:
    """Return the tools of the field `tools`; None means no tools.

    Raises:
        InputError: if one of them is invalid.
    """
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > MAX_TOOLS:
        found = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
        raise InputError(f"tools is {found}, expected a list of at most {MAX_TOOLS} functions")
    tools = tuple(_tool(entry, f"tools[{index}]") for index, entry in enumerate(entries))
    names = [tool.name for tool in tools]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise InputError(f"two tools have the name {duplicate!r}; give each tool its own name")
    return tools


def _tool(entry: Any, path: str) -> Tool:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict) or entry.get("type") != "function":
        raise InputError(
            f'{path} is not a function, expected {{"type": "function", ...}} with at least a name'
        )
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        message = f"{path} has the name {name!r:.80}, expected 1 to 128 letters, digits, _ or -"
        raise InputError(message)
    if not isinstance(description, str):
        raise InputError(f"{path} has a description that is not a string, expected a string")
    strict = function.get("strict") or False
    if not isinstance(strict, bool):
        raise InputError(f"{path} has strict = {strict!r:.80}, expected true or false")
    parameters = function.get("parameters")
    if parameters is None:
        return Tool(name, description, strict=strict)
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise InputError(
            f"{path} has parameters that do not describe an object, expected a JSON schema such as "
            '{"type": "object", "properties": {...}}'
        )
    try:
        checked_json(parameters)
    except InputError as error:
        raise InputError(f"{path}, {name}: {error}") from error
    return Tool(name, description, {"type": "object", **parameters}, strict)


def logits_processors_of(
    body: GenerationRequest, model: Model, grammar: Grammar | None = None
) -> tuple[LogitsProcessor, ...]:
    """Return a logits processor for each choice: `logit_bias`, `ignore_eos`, then the grammar.

    Raises:
        ApiError: if an id is not in the vocabulary.
    """
    processors: list[LogitsProcessor] = []
    if body.logit_bias:
        processors.append(_biased(body.logit_bias, model.config.vocab_size))
    end = model.tokenizer.end_of_text
    if body.ignore_eos and end is not None:
        processors.append(lambda logits, _: logits.index_fill(0, torch.tensor(end), -torch.inf))
    if not processors and grammar is None:
        return ()
    # The grammar comes last, and each choice needs its own, because it follows the sampled ids.
    own = [[grammar.logits_processor()] if grammar else [] for _ in range(body.choices)]
    return tuple(ProcessorChain([*processors, *last]) for last in own)


@dataclass(frozen=True)
class ProcessorChain:
    """Several logits processors as one; those that guide drafts are asked for them in turn.

    Attributes:
        processors: the logits processors, in their order.
    """

    processors: Sequence[LogitsProcessor]

    def __call__(self, logits: Tensor, sampled: Sequence[int]) -> Tensor:
        """Return the logits (V,) after all processors."""
        for processor in self.processors:
            logits = processor(logits, sampled)
        return logits

    @property
    def _guides(self) -> list[DraftGuide]:
        processors: Sequence[object] = self.processors
        return [one for one in processors if isinstance(one, DraftGuide)]

    def certain(self, sampled: Sequence[int], most: int) -> list[int]:
        """Return the ids that one of the processors makes certain."""
        found = (guide.certain(sampled, most) for guide in self._guides)
        return next(filter(None, found), [])

    def cut(self, sampled: Sequence[int], draft: Sequence[int]) -> list[int]:
        """Return the ids of a draft that all processors allow."""
        for guide in self._guides:
            draft = guide.cut(sampled, draft)
        return list(draft)


def _biased(bias: dict[str, float], vocab_size: int) -> LogitsProcessor:
    wrong = [key for key in bias if not key.isdecimal() or len(key) > 9 or int(key) >= vocab_size]
    if wrong:
        message = f"logit_bias has the key {wrong[0]!r:.40}, expected a token id"
        raise ApiError(400, f"{message} from 0 to {vocab_size - 1}", param="logit_bias")
    positions = torch.tensor([int(key) for key in bias])
    values = torch.tensor(list(bias.values()), dtype=torch.float32)

    def logits_processor(logits: Tensor, _: Sequence[int]) -> Tensor:
        return logits.index_add(0, positions.to(logits.device), values.to(logits))

    return logits_processor
