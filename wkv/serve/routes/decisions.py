"""`POST /v1/decisions` and `/v1/systemone`: typed questions, answered by probabilities."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from wkv.evaluate.decisions import Answer, Decisions, Question, decision_steps
from wkv.prompting.template import Message
from wkv.serve.build_constraints import ReplyFormat
from wkv.serve.chat_messages import messages_of
from wkv.serve.middleware import tenant_of
from wkv.serve.protocol.decisions import (
    DecisionObject,
    DecisionRequest,
    SystemOneObject,
    SystemOneRequest,
)
from wkv.serve.protocol.errors import naming
from wkv.serve.read_body import BodyRoute
from wkv.serve.response_items import chat_messages
from wkv.serve.service import Service
from wkv.serve.stream_reply import json_response, until_disconnect

Json = dict[str, Any]

KINDS = {"noul": "predicate", "choice": "choice", "score": "score"}
"""The types of System One, and ours."""


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(route_class=BodyRoute)

    async def answered(
        http: HttpRequest,
        text: str | Sequence[Message],
        questions: Sequence[Question],
        model: str | None,
        state: str | None = None,
    ) -> tuple[Decisions, str]:
        """Return the answers, and the name of the model."""
        start = await run_in_threadpool(service.conversation_start, state, tenant_of(http), model)
        steps = decision_steps(service.model, text, questions, state=start.state)
        found = await until_disconnect(http, service.scheduler_thread.run_task(steps))
        service.metrics.prompt_tokens.inc(found.tokens)
        return found, start.model

    @router.post("/v1/decisions", response_model=DecisionObject)
    async def decisions(body: DecisionRequest, http: HttpRequest) -> Response:
        """Answer typed questions about a text or a conversation."""
        questions = []
        for number, entry in enumerate(body.questions):
            with naming(f"questions.{number}"):
                questions.append(Question.of(_with_text(entry)))
        text: str | list[Message] = body.input if isinstance(body.input, str) else []
        if not isinstance(body.input, str):
            items = chat_messages([_without_json(item) for item in body.input])
            text = messages_of(items, ReplyFormat())
        with naming("input"):
            found, name = await answered(http, text, questions, body.model, body.state)
        usage = {
            "input_tokens": found.tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": found.tokens,
        }
        answers = [_openai(answer) for answer in found.answers]
        reply = {"object": "decision", "model": name, "answers": answers, "usage": usage}
        return await json_response(lambda: reply)

    @router.post("/v1/systemone", response_model=SystemOneObject)
    async def system_one(body: SystemOneRequest, http: HttpRequest) -> Response:
        """Answer typed questions about a text or any JSON value, by their ids."""
        questions = []
        for name, entry in body.questions.items():
            with naming(f"questions.{name}"):
                questions.append(_system_one_question(entry))
        is_text = isinstance(body.state, str)
        text = body.state if is_text else json.dumps(body.state, ensure_ascii=False)
        with naming("state"):
            found, model = await answered(http, text, questions, body.model)
        answers = {
            name: _system_one(answer)
            for name, answer in zip(body.questions, found.answers, strict=True)
        }
        usage = {"input_tokens": found.tokens, "output_tokens": 0}
        kind = {"object": "structured_decision", "model": model}
        return await json_response(lambda: kind | {"answers": answers, "usage": usage})

    return router


def _with_text(question: Json) -> Json:
    """Return a question whose instructions are one text, if they were given in parts."""
    parts = question.get("instructions")
    if not isinstance(parts, list):
        return question
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return question | {"instructions": "".join(text for text in texts if isinstance(text, str))}


def _without_json(item: Json) -> Json:
    """Return an item whose parts with JSON values are texts."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    parts = [
        {"type": "input_text", "text": json.dumps(part.get("data"), ensure_ascii=False)}
        if isinstance(part, dict) and part.get("type") == "input_json"
        else part
        for part in content
    ]
    return item | {"content": parts}


def _system_one_question(entry: Json) -> Question:
    """Return a question of System One as ours."""
    criteria, kind = entry.get("criteria"), KINDS.get(str(entry.get("type")), entry.get("type"))
    question = {"type": kind, "instructions": entry.get("instructions")}
    if kind == "choice" and isinstance(criteria, dict):
        question["choices"] = [
            {"value": value, "description": text} for value, text in criteria.items()
        ]
    elif kind == "score":
        question["levels"] = criteria
    elif kind == "predicate" and isinstance(criteria, dict):
        meanings = [f"{name}: {text}" for name, text in criteria.items() if text]
        question["instructions"] = "\n".join([str(entry.get("instructions")), *meanings])
    return Question.of(question)


def _openai(answer: Answer) -> Json:
    """Return an answer in the form of `/v1/decisions`."""
    question = answer.question
    body: Json = {"type": question.kind, "name": question.name, "label_mass": answer.label_mass}
    if question.kind == "predicate":
        return body | {"probability": answer.probability}
    pairs = list(zip(question.options, answer.probabilities, strict=True))
    body["confidence"] = answer.confidence
    if question.kind == "choice":
        probabilities = [{"value": option.value, "probability": p} for option, p in pairs]
        return body | {"choice": answer.value, "probabilities": probabilities}
    levels = [{"value": o.value, "label": o.text, "probability": p} for o, p in pairs]
    return body | {"score": answer.score, "probabilities": levels}


def _system_one(answer: Answer) -> Json:
    """Return an answer in the form of System One."""
    question, values = answer.question, answer.probabilities
    if question.kind == "predicate":
        return {"type": "noul", "noul": answer.probability}
    legend = [option.text for option in question.options]
    if question.kind == "choice":
        probabilities = dict(zip(legend, values, strict=True))
        body: Json = {"type": "choice", "choice": answer.value, "probabilities": probabilities}
    else:
        body = {"type": "score", "score": answer.score, "legend": legend}
        body["probabilities"] = list(values)
    return body | {"confidence": answer.confidence}
