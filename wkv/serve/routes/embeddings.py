"""`POST /v1/embeddings`: the pooled hidden state of a language model.

    e = m / |m|,  m = mean over the tokens of the residual stream after the last block

The model was not trained for embeddings, so texts with the same meaning are only roughly close to
each other. Unlike a sum, the mean does not grow with the length of a text.
"""

import base64
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from torch import Tensor

from wkv.inference.model import Model
from wkv.models.state import State
from wkv.serve.protocol.errors import ApiError
from wkv.serve.protocol.requests import EmbeddingRequest
from wkv.serve.protocol.responses import EmbeddingList
from wkv.serve.read_body import BodyRoute
from wkv.serve.routes.completions import ids_of
from wkv.serve.service import Service
from wkv.serve.stream_reply import json_response, until_disconnect


def routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=BodyRoute)

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def embeddings(body: EmbeddingRequest, http: HttpRequest) -> Response:
        """Return the pooled hidden states of texts."""
        start = service.conversation_start(None, "", body.model)
        width = service.model.config.n_embd
        if body.dimensions not in (None, width):
            message = f"dimensions is {body.dimensions}, but the model's vectors have {width}"
            raise ApiError(400, f"{message}; leave the field out", param="dimensions")
        arguments = service.model, body.input, start.state, "input"
        inputs = await run_in_threadpool(ids_of, *arguments)
        chunk = service.scheduler_thread.scheduler.prefill_chunk
        work = service.scheduler_thread.run_task(pooled(service.model, inputs, chunk, start.state))
        vectors = await until_disconnect(http, work)
        prompt_tokens = sum(map(len, inputs))
        service.metrics.prompt_tokens.inc(prompt_tokens)

        def build() -> dict[str, Any]:
            data = [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _encode(vector, body.encoding_format),
                }
                for index, vector in enumerate(vectors)
            ]
            usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
            return {"object": "list", "data": data, "model": start.model, "usage": usage}

        return await json_response(build)

    return router


def pooled(
    model: Model, inputs: Sequence[Sequence[int]], chunk: int, start: State | None = None
) -> Generator[None, None, list[Tensor]]:
    """Compute the pooled hidden states (D,) of several texts that begin from a state.

    A step reads `chunk` ids.
    """
    vectors = []
    for ids in inputs:
        total, state = torch.zeros(model.config.n_embd), start
        for begin in range(0, len(ids), chunk):
            hidden, state = model.hidden(ids[begin : begin + chunk], state)
            total += hidden.sum(dim=0).cpu()
            yield
        mean = total / len(ids)
        vectors.append(mean / mean.norm().clamp(min=1e-12))
    return vectors


def _encode(vector: Tensor, encoding: str | None) -> Any:
    """Return a vector as a list, or as base64 of little-endian float32."""
    if encoding != "base64":
        return vector.tolist()
    return base64.b64encode(np.asarray(vector.numpy(), dtype="<f4").tobytes()).decode()
