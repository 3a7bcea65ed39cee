"""`/v1/decisions` and `/v1/systemone`."""

import openai
import pytest

from wkv.serve.protocol.decisions import DecisionObject, SystemOneObject

PATH, OTHER = "/v1/decisions", "/v1/systemone"
AFTER_MAY = {
    "type": "choice",
    "name": "month",
    "instructions": "Which month comes after May?",
    "choices": [{"value": "June"}, {"value": "July"}, {"value": "January"}],
}
QUESTIONS = [
    {"type": "predicate", "instructions": "Is it a greeting?"},
    AFTER_MAY,
    {"type": "score", "instructions": "How long?", "levels": [{"label": "short"}, {"label": "x"}]},
]


def test_answers_stand_in_the_order_of_the_questions(client):
    body = {"input": "Hello", "questions": QUESTIONS}
    reply = client.post(PATH, json=body).json()
    DecisionObject.model_validate(reply)
    predicate, choice, score = reply["answers"]
    assert (predicate["type"], choice["type"], score["type"]) == ("predicate", "choice", "score")
    assert (choice["name"], choice["choice"]) == ("month", "June")
    assert sum(one["probability"] for one in choice["probabilities"]) == pytest.approx(1)
    assert 0 <= score["score"] <= 1
    assert reply["usage"]["total_tokens"] > 10
    assert client.post(PATH, json=body).json()["answers"] == reply["answers"]


def test_a_conversation_with_calls_and_json(client):
    items = [
        {"role": "user", "content": [{"type": "input_json", "data": {"a": [1, 2]}}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        {"role": "assistant", "content": "Hello!"},
    ]
    reply = client.post(PATH, json={"input": items, "questions": [AFTER_MAY]}).json()
    assert reply["answers"][0]["choice"] == "June"


def test_the_official_client(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as sdk:
        if not hasattr(sdk, "decisions"):
            pytest.skip("this version of openai has no decisions")
        reply = sdk.decisions.create(model="test", input="Hello", questions=[AFTER_MAY])
        assert reply.answers[0].choice == "June"


def test_system_one(client):
    questions = {
        "greeting": {"type": "noul", "instructions": "Is it?", "criteria": {"true": "a greeting"}},
        "month": {
            "type": "choice",
            "instructions": "Which month comes after May?",
            "criteria": {"June": None, "July": "the seventh"},
        },
        "length": {"type": "score", "instructions": "How long?", "criteria": ["short", "long"]},
    }
    for state in ("Hello", {"text": ["Hello"]}):
        reply = client.post(OTHER, json={"state": state, "questions": questions}).json()
        SystemOneObject.model_validate(reply)
        assert list(reply["answers"]) == list(questions)
        assert reply["answers"]["month"]["choice"] == "June"
        assert reply["answers"]["length"]["legend"] == ["short", "long"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (PATH, {"questions": QUESTIONS}, "input"),
        (PATH, {"input": "", "questions": QUESTIONS}, "input"),
        (PATH, {"input": "x"}, "questions"),
        (PATH, {"input": "x", "questions": []}, "questions"),
        (PATH, {"input": "x", "questions": [{"type": "x"}]}, "questions.0"),
        (PATH, {"input": "x", "questions": [AFTER_MAY, {**AFTER_MAY, "choices": ["a"]}]},
         "questions.1"),
        (PATH, {"input": [{"role": "user", "content": [{"type": "input_image"}]}],
                "questions": [AFTER_MAY]}, "input.0.content.0.type"),
        (PATH, {"input": "x", "questions": [AFTER_MAY], "unknown": 1}, "unknown"),
        (PATH, {"input": "x", "questions": [AFTER_MAY] * 401}, "questions"),
        (OTHER, {"state": "x", "questions": {"a": {"type": "score", "instructions": "?"}}},
         "questions.a"),
        (OTHER, {"state": "", "questions": {"a": {"type": "noul", "instructions": "?"}}}, "state"),
    ],
)  # fmt: skip
def test_errors_name_the_field(client, path, body, param):
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_unknown_models_and_states(client):
    body = {"input": "x", "questions": QUESTIONS}
    assert client.post(PATH, json={**body, "model": "other"}).status_code == 404
    assert client.post(PATH, json={**body, "state": f"state-{'0' * 32}"}).status_code == 404
