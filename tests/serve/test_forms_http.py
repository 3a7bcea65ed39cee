"""JSON, calls of tools, and the responses API, through OpenAI's own client."""

import json

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather now.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "unit"],
        },
    },
}
ASK = [{"role": "user", "content": "Is it cold in Paris?"}]


@pytest.fixture
def sdk(served):
    """Give OpenAI's client for the built-in model."""
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(sdk, messages=ASK, **fields):
    return sdk.chat.completions.create(model="test", messages=messages, **fields)


def check_call(call):
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("C", "F")
    assert call.id.startswith("call_")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_that_must_be_made_is_made(sdk, choice):
    answer = chat(sdk, tools=[WEATHER], tool_choice=choice)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    check_call(call)


def test_a_call_streams_as_it_is_whole(sdk):
    fields = {"tools": [WEATHER], "tool_choice": "required"}
    [whole] = chat(sdk, **fields).choices[0].message.tool_calls
    with sdk.chat.completions.stream(model="test", messages=ASK, **fields) as stream:
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices
    [streamed] = choice.message.tool_calls
    assert streamed.function.arguments == whole.function.arguments
    assert choice.finish_reason == "tool_calls"


def test_a_result_is_gone_on_with_from_the_cache(sdk):
    fields = {"tools": [WEATHER]}
    answer = chat(sdk, tool_choice="required", **fields)
    message = answer.choices[0].message
    result = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": '{"temperature": 3}',
    }
    history = [*ASK, message.model_dump(exclude_none=True), result]
    # The tools are told in other words where they need not be called, so it is forced again.
    answer = chat(sdk, history, tool_choice="required", **fields)
    usage = answer.usage
    assert usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens < 60
    assert usage.prompt_tokens_details.cached_tokens > 20


def test_no_tools_where_none_may_be_called(sdk):
    plain = chat(sdk).choices[0].message.content
    assert chat(sdk, tools=[WEATHER], tool_choice="none").choices[0].message.content == plain
    answer = chat(sdk, tools=[WEATHER], max_tokens=30)
    assert answer.choices[0].message.content


def test_json_follows_its_schema(sdk):
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=150)

    schema = Person.model_json_schema() | {"additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    for seed in range(3):
        answer = chat(sdk, response_format=form, seed=seed, temperature=1.5, top_p=1)
        assert answer.choices[0].finish_reason == "stop"
        Person.model_validate_json(answer.choices[0].message.content)
    parsed = sdk.chat.completions.parse(
        model="test", messages=ASK, response_format=Person, max_tokens=200, n=2
    )
    assert len(parsed.choices) == 2


def test_a_json_object_is_one(sdk):
    answer = chat(sdk, response_format={"type": "json_object"}, max_tokens=300)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "robot"}}}},
        {"tools": [{"type": "function"}]},
        {"tools": [WEATHER, WEATHER]},
        {"tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        {
            "tools": [WEATHER],
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        },
    ],
)
def test_forms_that_cannot_be_are_told(sdk, fields):
    with pytest.raises(openai.BadRequestError) as told:
        chat(sdk, **fields)
    assert told.value.body["message"]


def respond(sdk, text, **fields):
    return sdk.responses.create(model="test", input=text, **fields)


def test_a_response_says_what_chat_says(sdk):
    said = chat(sdk).choices[0].message.content
    answer = respond(sdk, ASK[0]["content"])
    assert answer.status == "completed"
    assert answer.output_text == said
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    parts = [{"type": "input_text", "text": ASK[0]["content"]}]
    assert respond(sdk, [{"role": "user", "content": parts}]).output_text == said
    assert sdk.responses.retrieve(answer.id).output_text == said
    cut = respond(sdk, ASK[0]["content"], max_output_tokens=2)
    assert cut.status == "incomplete"


def test_a_response_goes_on_from_another(sdk):
    first = respond(sdk, "Hello", instructions="Be kind.")
    second = respond(sdk, "Who are you?", previous_response_id=first.id, instructions="Be kind.")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Who are you?"},
    ]
    assert second.output_text == chat(sdk, messages).choices[0].message.content
    assert second.usage.input_tokens_details.cached_tokens > 0
    sdk.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        respond(sdk, "Hello", previous_response_id=second.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve("resp_" + "0" * 32)
    unkept = respond(sdk, "Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(unkept.id)


def test_a_streamed_response_is_the_whole_one(sdk):
    whole = respond(sdk, "Hello")
    with sdk.responses.stream(model="test", input="Hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"


def test_a_response_calls_tools(sdk):
    tool = {"type": "function", **WEATHER["function"]}
    fields = {"tools": [tool], "tool_choice": "required"}
    answer = respond(sdk, ASK[0]["content"], **fields)
    [call] = answer.output
    assert call.type == "function_call"
    assert call.name == "weather"
    json.loads(call.arguments)
    with sdk.responses.stream(model="test", input=ASK[0]["content"], **fields) as stream:
        for _ in stream:
            pass
        [streamed] = stream.get_final_response().output
    assert streamed.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "3 C"}
    later = respond(sdk, [result], previous_response_id=answer.id, max_output_tokens=20)
    assert later.output_text
    again = respond(
        sdk,
        [{"role": "user", "content": ASK[0]["content"]}, call.model_dump(), result],
        max_output_tokens=20,
    )
    assert again.output_text == later.output_text


def test_what_a_response_cannot_read_is_told(sdk):
    for item in ({"type": "image_generation_call"}, {"role": "robot", "content": "x"}):
        with pytest.raises(openai.BadRequestError):
            respond(sdk, [item])
    with pytest.raises(openai.BadRequestError):
        respond(sdk, "Hello", tools=[{"type": "telepathy"}])
    with pytest.raises(openai.BadRequestError):
        respond(sdk, "Hello", reasoning={"effort": "endless"})
