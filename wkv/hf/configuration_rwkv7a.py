"""The config class of RWKV-7a, `RWKV7aConfig`; it does not need torch."""

from typing import Any

from wkv.hf.configuration_rwkv7 import RWKV7Config


class RWKV7aConfig(RWKV7Config):
    """The configuration of an RWKV-7a model: that of RWKV-7, and deep_embed_rank, R."""

    model_type = "rwkv7a"

    def __init__(self, deep_embed_rank: int = 32, **kwargs: Any) -> None:
        self.deep_embed_rank = deep_embed_rank
        super().__init__(**kwargs)
