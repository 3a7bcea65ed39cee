"""Continuous batching: requests arrive at any time and share the model; states are cached.

Scheduler      accepts requests and advances all of them, one step at a time
Request        a prompt and the parameters of its continuation
StateCache     states by the ids that were read to reach them

The package knows nothing about HTTP.
"""

from wkv.batching.request import (
    ChoiceDone,
    Event,
    PrefillDone,
    Request,
    RequestFailed,
    RequestHandle,
    TextEvent,
)
from wkv.batching.scheduler import Scheduler, SchedulerLoad
from wkv.batching.state_cache import StateCache
from wkv.batching.state_folder import StateFolder

__all__ = [
    "ChoiceDone",
    "Event",
    "PrefillDone",
    "Request",
    "RequestFailed",
    "RequestHandle",
    "Scheduler",
    "SchedulerLoad",
    "StateCache",
    "StateFolder",
    "TextEvent",
]
