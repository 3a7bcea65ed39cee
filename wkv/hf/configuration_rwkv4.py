"""The config class of RWKV-4, `RwkvConfig`; it does not need torch."""

from typing import Any, ClassVar

from transformers import PretrainedConfig

from wkv.hf.config_checks import CACHE_NAMES, check_activation


class RwkvConfig(PretrainedConfig):
    """The configuration of an RWKV-4 model.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        attention_hidden_size: A, width of the time mix; by default D.
        intermediate_size: F, width of the channel mix; by default 4 D.
        context_length: context length of the training, in tokens; it limits nothing.
        layer_norm_epsilon: eps of all norms.
        rescale_every: a field of transformers' own class. It has no effect here, because the
            float32 residual stream does not overflow.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv"
    keys_to_ignore_at_inference: ClassVar = list(CACHE_NAMES)
    attribute_map: ClassVar = {"max_position_embeddings": "context_length"}

    def __init__(
        self,
        vocab_size: int = 50277,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        attention_hidden_size: int | None = None,
        intermediate_size: int | None = None,
        context_length: int = 1024,
        layer_norm_epsilon: float = 1e-5,
        rescale_every: int = 0,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        bos_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 0,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        check_activation(kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attention_hidden_size = attention_hidden_size or hidden_size
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.context_length = context_length
        self.layer_norm_epsilon = layer_norm_epsilon
        self.rescale_every = rescale_every
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
