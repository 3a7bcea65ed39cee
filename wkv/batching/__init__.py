"""Continuous batching: requests in at any time, text out, states kept for those who come back.

Scheduler      takes requests and does a step at a time
Request        a prompt, and how to go on from it
StateCache     states by the ids that lead to them
"""

from wkv.batching.request import Begun, Drawn, Ended, Event, Failed, Piece, Request, Ticket
from wkv.batching.scheduler import Load, Scheduler
from wkv.batching.state_cache import StateCache
from wkv.batching.state_folder import StateFolder

__all__ = [
    "Begun",
    "Drawn",
    "Ended",
    "Event",
    "Failed",
    "Load",
    "Piece",
    "Request",
    "Scheduler",
    "StateCache",
    "StateFolder",
    "Ticket",
]
