"""Models by name: the catalog of official checkpoints, repositories on hubs, and addresses.

A name of the catalog is FAMILY:SIZE, such as `g1:0.1b`; the catalog is the file `models.toml`. Any
other model has the name of its repository (OWNER/NAME, or OWNER/NAME/FILE), or an address. Files of
the catalog are stored in the cache of `huggingface_hub`, where other tools find them too, all
others in the folder of `repository.home`.
"""

from wkv.hub.catalog import Entry, entries, recommended
from wkv.hub.download import cached, fetch
from wkv.hub.local import LocalModel, local_models, remove
from wkv.hub.names import find, lookup, resolve
from wkv.hub.repository import Address, Repository, fetch_repository, stored
from wkv.hub.sources import NAMES as SOURCES
from wkv.hub.transfer import Remote, Report

__all__ = [
    "SOURCES",
    "Address",
    "Entry",
    "LocalModel",
    "Remote",
    "Report",
    "Repository",
    "cached",
    "entries",
    "fetch",
    "fetch_repository",
    "find",
    "local_models",
    "lookup",
    "recommended",
    "remove",
    "resolve",
    "stored",
]
