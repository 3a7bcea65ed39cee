"""The config class of RWKV-5, `Rwkv5Config`; it does not need torch."""

from typing import Any, ClassVar

from transformers import PretrainedConfig

from wkv.hf.config_checks import CACHE_NAMES, check_activation


class Rwkv5Config(PretrainedConfig):
    """The configuration of an RWKV-5 model.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        attention_hidden_size: A, width of the time mix; by default D.
        head_size: N, a divisor of A.
        head_size_divisor: number by which training divides the output of a head before its norm.
        intermediate_size: F, width of the channel mix; by default 3.5 D, rounded down to a
            multiple of 32.
        rwkv_generation: "5.0", "5.1" or "5.2", which the model file describes.
        context_length: the maximum length that other programs assume; it limits nothing here.
        layer_norm_epsilon: eps of the layer norms; that of the norm per head is
            layer_norm_epsilon * head_size_divisor^2.
        rescale_every: a field of older classes. It has no effect here, because the float32
            residual stream does not overflow.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv5"
    keys_to_ignore_at_inference: ClassVar = list(CACHE_NAMES)
    attribute_map: ClassVar = {"max_position_embeddings": "context_length"}

    def __init__(
        self,
        vocab_size: int = 65536,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        attention_hidden_size: int | None = None,
        head_size: int = 64,
        head_size_divisor: float = 8,
        intermediate_size: int | None = None,
        rwkv_generation: str = "5.2",
        context_length: int = 1048576,
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
        self.head_size = head_size
        self.head_size_divisor = head_size_divisor
        self.intermediate_size = intermediate_size or int(3.5 * hidden_size) // 32 * 32
        self.rwkv_generation = rwkv_generation
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
