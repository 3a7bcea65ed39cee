"""The official checkpoints by name: what there is, what is on this machine, and fetching it.

A name is FAMILY:SIZE, such as `g1:0.1b`. The facts lie in `models.toml`; files are kept in the
cache of `huggingface_hub`, where other tools find them too.
"""

from wkv.hub.catalog import Entry, entries
from wkv.hub.download import Report, cached, fetch
from wkv.hub.names import find, lookup, resolve

__all__ = ["Entry", "Report", "cached", "entries", "fetch", "find", "lookup", "resolve"]
