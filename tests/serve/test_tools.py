"""Tools: what a request says, what the model reads, and the calls in what it writes."""

import json
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import wkv
from wkv.constraints.grammar import Grammars
from wkv.constraints.tool_calls import calls_grammar
from wkv.errors import InputError
from wkv.inference.sampling import Sampling
from wkv.prompting.tool_calls import (
    CallArguments,
    CallBegun,
    TextPiece,
    ToolCallParser,
    calls_in,
    new_call_id,
)
from wkv.prompting.tool_types import Call, Tool, ToolChoice
from wkv.prompting.tools import call_prefix, call_text, result_text, tools_system
from wkv.serve.build_constraints import tools_of
from wkv.tokenizers.plain_bytes import BytesTokenizer

NAMES = ("weather", "stop")

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "array", "items": {"type": ["integer", "null"]}},
    },
    "required": ["city"],
}


def entry(name="weather", **function):
    return {"type": "function", "function": {"name": name, **function}}


WEATHER = entry(description="The weather\n\nnow.", parameters=CITY)


def test_tools_are_read_from_a_request():
    weather, stop = tools_of([WEATHER, entry("stop", strict=True)])
    assert (weather.name, weather.strict, weather.parameters) == ("weather", False, CITY)
    assert stop == Tool("stop", strict=True)
    assert tools_of(None) == tools_of([]) == ()
    assert tools_of([entry(parameters={})])[0].parameters == {"type": "object"}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("weather", "str"),
        ([3], "not a function"),
        ([{"type": "retrieval"}], "not a function"),
        ([{"type": "function"}], "not a function"),
        ([entry("a b")], "'a b'"),
        ([entry("")], "1 to 128"),
        ([entry("x" * 129)], "1 to 128"),
        ([entry("ok\n")], "1 to 128"),
        ([entry(None)], "None"),
        ([entry(), entry()], "two tools"),
        ([entry(f"f{i}") for i in range(513)], "513"),
        ([entry(description=3)], "description"),
        ([entry(strict="yes")], "strict"),
        ([entry(parameters=[])], "object"),
        ([entry(parameters={"type": "string"})], "object"),
        ([entry(parameters={"$ref": "https://example.com"})], "weather.*example.com"),
        ([entry(parameters={"enum": list(range(5000))})], "enum"),
    ],
)
def test_wrong_tools_are_told(entries, words):
    with pytest.raises(InputError, match=words):
        tools_of(entries)


def test_the_choice_of_tools():
    tools = tools_of([WEATHER, entry("stop")])
    named = ToolChoice.of({"type": "function", "function": {"name": "stop"}}, tools)
    assert ToolChoice.of(None, tools) == ToolChoice("auto")
    assert ToolChoice.of(None, ()) == ToolChoice("none")
    assert (
        named
        == ToolChoice("named", "stop")
        == ToolChoice.of({"type": "function", "name": "stop"}, tools)
    )
    assert ToolChoice.of("required", tools).is_forced
    assert not ToolChoice.of("auto", tools).is_forced
    assert [tool.name for tool in named.offered(tools)] == ["stop"]
    assert ToolChoice.of("none", tools).offered(tools) == ()
    assert ToolChoice("required").offered(tools) == tools


@pytest.mark.parametrize(
    "value", ["any", 3, [], {}, {"type": "function"}, entry("other"), {"type": "allowed_tools"}]
)
def test_a_wrong_choice_is_told(value):
    with pytest.raises(InputError, match="tool_choice"):
        ToolChoice.of(value, tools_of([WEATHER]))


def test_required_needs_tools():
    with pytest.raises(InputError, match="no tools"):
        ToolChoice.of("required", ())


def test_the_turns_are_those_the_models_know():
    tools = tools_of([WEATHER, entry("stop")])
    assert tools_system(tools) == (
        "Tools:\n"
        '- weather(city: string, unit?: "C" | "F", days?: (integer | null)[]): The weather now.\n'
        "- stop()\n"
        "Return only a JSON function call."
    )
    freely = tools_system(tools, may_answer=True, parallel=True).splitlines()[-1]
    assert freely == (
        "Return only a JSON function call, or a JSON list of them, or answer in words if no tool "
        "helps."
    )
    assert call_prefix(ToolChoice("required")) == " ```json"
    assert call_prefix(ToolChoice("auto")) == ""
    assert result_text('{"temperature":\n\n 3}\n') == 'Function output:\n{"temperature":\n 3}'
    assert result_text(" ") == "Function output:\nnull"
    one = Call("weather", '{"city":  "Paris"}')
    assert call_text([one]) == (
        '```json\n{"name": "weather", "arguments": {"city":  "Paris"}}\n```'
    )
    assert call_text([one, Call("stop", "{")]) == (
        '```json\n[{"name": "weather", "arguments": {"city":  "Paris"}}, '
        '{"name": "stop", "arguments": "{"}]\n```'
    )


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (True, "any"),
        ({}, "any"),
        ({"$ref": "#/$defs/Point"}, "Point"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"type": "array"}, "array"),
        ({"type": "array", "items": {"type": "object"}}, "object[]"),
        ({"const": "a"}, '"a"'),
        ({"enum": ["x" * 200]}, '"' + "x" * 119 + "..."),
    ],
)
def test_types_have_short_names(schema, name):
    tool = Tool("f", parameters={"properties": {"a": schema}, "required": ["a"]})
    assert tools_system([tool]).splitlines()[1] == f"- f(a: {name})"


@given(st.text(), st.lists(st.text()), st.text())
def test_no_turn_holds_a_blank_line(description, names, content):
    properties = {name: {"enum": [name]} for name in names}
    tool = Tool("f", description, {"type": "object", "properties": properties})
    arguments = json.dumps({"a": content}, indent=2).replace("\n", "\n\n")
    calls = [Call("f", arguments), Call("f", content)]
    for text in (tools_system([tool]), call_text(calls), result_text(content)):
        assert "\n\n" not in text
        assert "\r\n" not in text or "\n\n" not in text.replace("\r\n", "\n")


def read(pieces, assistant_prefix=""):
    """Text and calls of a reply, in order, neighbouring text joined."""
    parser = ToolCallParser(NAMES, assistant_prefix=assistant_prefix, new_id=lambda: "id")
    events = [event for piece in pieces for event in parser.push(piece)] + parser.flush()
    found = []
    for event in events:
        if isinstance(event, TextPiece):
            assert event.text
            if found and isinstance(found[-1], str):
                found[-1] += event.text
            else:
                found.append(event.text)
        elif isinstance(event, CallBegun):
            assert event.id == "id"
            assert event.index == sum(isinstance(other, tuple) for other in found)
            found.append((event.name, ""))
        else:
            assert isinstance(event, CallArguments)
            found[-1] = (found[-1][0], found[-1][1] + event.fragment)
    return found


CALL = '{"name": "weather", "arguments": {"city":  "}é\\"{", "x": 1.0}}'
ARGUMENTS = '{"city":  "}é\\"{", "x": 1.0}'
WANTED = ("weather", ARGUMENTS)
STOP = ("stop", "{}")

REPLIES = {
    CALL: [WANTED],
    f" \n{CALL}\n": [WANTED],
    f"```json\n{CALL}\n```": [WANTED],
    f" ```json\n{CALL}\n```\n": [WANTED],
    f"```json{CALL}```": [WANTED],
    f"```json\n{CALL}": [WANTED],
    f"Let me look.\n\n```json\n{CALL}\n```\n\nThat was it. ": [
        "Let me look.",
        WANTED,
        "That was it. ",
    ],
    f'```json\n[{CALL}, {{"name": "stop", "arguments": {{}}}}]\n```': [WANTED, STOP],
    f'{CALL}\n{{"name": "stop", "arguments": {{}}}}': [WANTED, STOP],
    f"```json\n{CALL}\n```\n```json\n{CALL}\n```": [WANTED, WANTED],
    f'```json\n{CALL}\n{{"name": "stop", "parameters": {{}}}}\n``` x': [WANTED, STOP, "x"],
    f"{CALL} ``` x": [WANTED, "``` x"],
    f"{CALL}\n``": [WANTED, "``"],
    f'{{"type": "function", "id": "1", "function": {CALL}}}': [WANTED],
    '{"arguments": "{\\"city\\": 1}", "name": "weather"}': [("weather", '{"city": 1}')],
    '{"name":"stop","arguments":{}}': [STOP],
}

TEXTS = [
    "",
    " ",
    "Hello there.\n",
    " two  blanks \n\n between\n ",
    f"Here is JSON: {CALL}",
    "```json\n[1, 2]\n```",
    "```json\n{}\n```",
    "{}",
    "[]",
    "[[]]",
    "{",
    "```",
    "```js",
    "```json",
    "```json\n{",
    '{"name": "weather"}',
    '{"name": "other", "arguments": {}}',
    '{"name": "weather", "arguments": 3}',
    '{"name": "weather", "arguments": "3"}',
    '{"name": "weather", "arguments": "{"}',
    '{"name": "weather", "arguments": {}, "more": 1}',
    '{"name": "weather", "arguments": {"a": NaN}}',
    '{"name": "weather", "arguments": {"a": 1,}}',
    '{"name": "weather", "arguments": {"a": "\n"}}',
    '{"name": ["weather"], "arguments": {}}',
    '{"function": "weather", "arguments": {}}',
    '{"function": {}}',
    '[{"name": "weather", "arguments": {}}, 3]',
    '{"name": "weather", "arguments": {"a": ' + "[" * 200 + "]" * 200 + "}}",
    '{"name": "weather", "arguments": {"a": ' + "1" * 5000 + "}}",
    '{"name": "weather", "arguments": "{\\"a\\": \\"\\ud800\\"}"}',
    "{not json} ```json {nor this} ```",
    '```json\n{"name": "weather", "arguments": {"a": 1',
    "```python\nx = {}\n```",
    "``````json``` ```json",
]


def cuts(text, places):
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


places = st.lists(st.integers(0, 10**6), max_size=40)


@pytest.mark.parametrize("reply", REPLIES)
def test_calls_are_found_in_any_cut(reply):
    assert read([reply]) == REPLIES[reply]
    assert read(list(reply)) == REPLIES[reply]


@pytest.mark.parametrize("reply", TEXTS)
def test_text_is_handed_out_unchanged(reply):
    expected = [reply] if reply else []
    assert read([reply]) == expected
    assert read(list(reply)) == expected


@given(st.sampled_from([*REPLIES, *TEXTS]), st.sampled_from(["", " ", "\n\n", "So: "]), places)
def test_any_cut_gives_the_same(reply, before, where):
    text = before + reply
    assert read(cuts(text, where)) == read([text])


PARTS = [
    "```json",
    "```",
    "`",
    "\n",
    " ",
    "{",
    "}",
    "[",
    "]",
    '"',
    "a",
    CALL,
    ",",
    '{"name": "',
    "\\",
]


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), places)
@example("```json{```json" + CALL, [3, 9])
def test_any_cut_of_any_mixture_gives_the_same_and_loses_nothing(text, where):
    found = read(cuts(text, where))
    assert found == read([text])
    if all(isinstance(part, str) for part in found):
        assert "".join(found) == text
    kept = "".join(part if isinstance(part, str) else CALL for part in found)
    frame = r"[`\s\[\],]|json"  # what belongs to calls and is not handed out with them
    assert re.sub(frame, "", kept) == re.sub(frame, "", text)


def test_a_false_start_does_not_hide_a_call_after_it():
    reply = f'```json\n{{"name": "weather", oops}}\n```\nAgain:\n```json\n{CALL}\n```'
    assert read(list(reply))[-1] == WANTED
    assert read([f'{{"x": 1}} ```json\n{CALL}\n```']) == ['{"x": 1}', WANTED]


def test_text_does_not_wait():
    parser = ToolCallParser(NAMES)
    assert parser.push(" Hello") == [TextPiece(" Hello")]
    assert parser.push(", you") == [TextPiece(", you")]
    assert parser.push(' ```json\n{"x": 1, "y":') == [
        TextPiece(" ```json"),
        TextPiece('\n{"x": 1, "y":'),
    ]


def test_the_lead_belongs_to_the_reply():
    assistant_prefix = call_prefix(ToolChoice("required"))
    assert read(["\n", CALL, "\n```"], assistant_prefix) == [WANTED]
    assert read(["\nno"], assistant_prefix) == ["\nno"]


@pytest.mark.parametrize(
    "reply", [f"\n{CALL}\n```", f'\n[{CALL}, {{"name": "stop", "arguments": {{}}}}]\n```']
)
def test_a_forced_call_that_is_cut_off_is_reported_as_far_as_it_is_known(reply):
    whole = read([reply], " ```json")
    assert {name for name, _ in whole} <= set(NAMES)
    for end in range(len(reply)):
        for pieces in ([reply[:end]], list(reply[:end])):
            found = [part for part in read(pieces, " ```json") if isinstance(part, tuple)]
            kept = [part for part in read(pieces, " ```json") if isinstance(part, str)]
            assert set("".join(kept)) <= {"`"}  # the end of the fence is the model's
            assert found[:-1] == whole[: max(0, len(found) - 1)]
            if found:
                assert found[-1][0] == whole[len(found) - 1][0]
                assert whole[len(found) - 1][1].startswith(found[-1][1].removesuffix("}")), found
            assert bool(found) == ('"weather"' in reply[:end])


def test_reading_takes_time_in_proportion():
    parser = ToolCallParser(NAMES)
    hostile = '```json{"name":"stop","arguments":"' * 4000 + "```json{" * 4000
    for start in range(0, len(hostile), 5):
        parser.push(hostile[start : start + 5])
    parser.flush()


def test_ids_are_those_of_calls():
    assert re.fullmatch(r"call_[0-9a-f]{24}", new_call_id())
    assert new_call_id() != new_call_id()


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner),
    )
)
def test_arguments_come_back_as_they_were_written(value):
    arguments = json.dumps({"value": value}, ensure_ascii=False)
    calls = [Call("weather", arguments), Call("stop", "{}")]
    (name, written), stop = read(list(call_text(calls)))
    assert (name, json.loads(written), stop) == ("weather", {"value": value}, STOP)
    assert len(written.splitlines()) == 1
    assert calls_in(json.dumps({"name": "stop", "arguments": arguments}), NAMES) == [
        ("stop", arguments)
    ]


@pytest.fixture(scope="module")
def grammars(demo):
    pytest.importorskip("llguidance")
    return Grammars(demo.tokenizer, demo.config.vocab_size)


@pytest.mark.parametrize(
    ("choice", "parallel"),
    [
        (ToolChoice("required"), False),
        (ToolChoice("required"), True),
        (ToolChoice("named", "weather"), False),
        (ToolChoice("named", "stop"), True),
    ],
)
def test_the_built_in_model_calls_when_it_must(demo, grammars, choice, parallel):
    parameters = {
        **CITY,
        "properties": {
            **CITY["properties"],
            "days": {"type": "integer", "maximum": 99, "minimum": 0},
        },
    }
    tools = tools_of([entry(parameters=parameters), entry("stop")])
    grammar = calls_grammar(grammars, tools, choice, parallel=parallel)
    prompt = (
        f"System: {tools_system(tools)}\n\nUser: Is it cold?\n\nAssistant:{call_prefix(choice)}"
    )
    for seed in range(3):
        stream = wkv.stream(
            demo,
            prompt,
            sampling=Sampling(seed=seed, temperature=2, top_p=1),
            max_tokens=1000,
            logits_processor=grammar.logits_processor(),
        )
        pieces = list(stream)
        assert stream.result.finish_reason == "stop"
        found = read(pieces, call_prefix(choice))
        assert 1 <= len(found) <= (8 if parallel else 1)
        for name, arguments in found:
            values = json.loads(arguments)
            assert name in [tool.name for tool in choice.offered(tools)]
            assert values.keys() <= ({"city", "unit", "days"} if name == "weather" else set())
            assert name == "stop" or len(values["city"]) <= 8
        if not stream.result.text.startswith("\n["):
            written = call_text([Call(*call) for call in found])
            assert f"{call_prefix(choice)}{stream.result.text}" == f" {written}"


def test_a_free_reply_has_no_grammar(grammars):
    tools = tools_of([WEATHER])
    assert calls_grammar(grammars, tools, ToolChoice("auto")) is None
    assert calls_grammar(grammars, tools, ToolChoice("none")) is None


def test_strict_decides_what_is_ignored(grammars):
    unique = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    for strict in (False, True):
        tools = tools_of([entry(parameters=unique, strict=strict)])
        if strict:
            with pytest.raises(InputError, match="uniqueItems"):
                calls_grammar(grammars, tools, ToolChoice("required"))
        else:
            assert calls_grammar(grammars, tools, ToolChoice("required")) is not None


def test_many_tools_and_references_of_their_own(grammars):
    definitions = [{"$defs": {"x": {"const": i}}} for i in range(128)]
    parameters = [
        {"properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"], **part}
        for part in definitions
    ]
    tools = tools_of([entry(f"tool-{i}", parameters=p) for i, p in enumerate(parameters)])
    plain = Grammars(BytesTokenizer(), 256)
    logits_processor = calls_grammar(plain, tools, ToolChoice("required")).logits_processor()
    text = b'\n{"name": "tool-77", "arguments": {"a": 77}}\n```'
    for count in range(len(text)):
        assert logits_processor(torch.zeros(256), list(text[:count]))[text[count]] == 0
    assert logits_processor(torch.zeros(256), list(text)).argmax() == 3
