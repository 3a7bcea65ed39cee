"""The catalog of official checkpoints: find them by name, and download them.

A name is FAMILY:SIZE, such as `g1:0.1b`. The catalog is the file `models.toml`. Downloaded files
are stored in the cache of `huggingface_hub`, where other tools find them too.
"""

from wkv.hub.catalog import Entry, entries
from wkv.hub.download import Report, cached, fetch
from wkv.hub.names import find, lookup, resolve

__all__ = ["Entry", "Report", "cached", "entries", "fetch", "find", "lookup", "resolve"]
