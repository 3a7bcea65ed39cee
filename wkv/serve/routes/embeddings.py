"""`POST /v1/embeddings`: the pooled hidden state of a language model.

    e = m / |m|,  m = mean over the tokens of the residual stream after the last block

The model was not trained for it: texts that mean the same come out near each other to a degree, no
more. Unlike a sum, the mean does not grow with the text.
"""

import base64
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from torch import Tensor

from wkv.inference.model import Model
from wkv.serve.errors import ApiError
from wkv.serve.event_stream import while_listened
from wkv.serve.requests import EmbeddingRequest
from wkv.serve.routes.completions import ids_of, prompts_of
from wkv.serve.sampling_params import check_model
from wkv.serve.service import Service


def routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, http: HttpRequest) -> Response:
        """Vectors of texts: pooled hidden states."""
        check_model(body.model, service.settings.name)
        width = service.model.config.n_embd
        if body.dimensions not in (None, width):
            raise ApiError(400, f"this model's vectors have {width} dimensions", param="dimensions")
        inputs = await run_in_threadpool(_ids, service.model, body)
        piece = service.engine.scheduler.prefill_chunk
        work = service.engine.run_task(pooled(service.model, inputs, piece))
        vectors = await while_listened(http, work)
        read = sum(map(len, inputs))
        service.metrics.prompt_tokens.inc(read)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _told(vector, body.encoding_format),
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": read, "total_tokens": read}
        name = service.settings.name
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})

    return router


def pooled(
    model: Model, inputs: Sequence[Sequence[int]], piece: int
) -> Generator[None, None, list[Tensor]]:
    """The pooled hidden states (D,) of several texts; a step reads a piece of one of them."""
    vectors = []
    for ids in inputs:
        total, state = torch.zeros(model.config.n_embd), None
        for begin in range(0, len(ids), piece):
            hidden, state = model.hidden(ids[begin : begin + piece], state)
            total += hidden.sum(dim=0).cpu()
            yield
        mean = total / len(ids)
        vectors.append(mean / mean.norm().clamp(min=1e-12))
    return vectors


def _ids(model: Model, body: EmbeddingRequest) -> list[list[int]]:
    return [ids_of(model, prompt, None, "input") for prompt in prompts_of(body.input)]


def _told(vector: Tensor, form: str | None) -> Any:
    """A vector as a list, or as base64 of little-endian float32."""
    if form != "base64":
        return vector.tolist()
    return base64.b64encode(np.asarray(vector.numpy(), dtype="<f4").tobytes()).decode()
