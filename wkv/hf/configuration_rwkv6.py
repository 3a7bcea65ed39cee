"""The config class of RWKV-6, `Rwkv6Config`; it does not need torch."""

from typing import Any, ClassVar

from transformers import PretrainedConfig

from wkv.hf.config_checks import CACHE_NAMES, check_activation


class Rwkv6Config(PretrainedConfig):
    """The configuration of an RWKV-6 model.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        attention_hidden_size: A, width of the time mix; by default D.
        head_size: N, a divisor of A.
        head_size_divisor: number by which training divides the output of a head before its norm.
        intermediate_size: F, width of the channel mix; by default 3.5 D, rounded down to a
            multiple of 32.
        lora_rank_tokenshift: rank of W1 and W2; by default 64 if D >= 4096, otherwise 32.
        lora_rank_decay: rank of D1 and D2; by default 128 if D >= 4096, otherwise 64.
        context_length: the maximum length that other programs assume; it limits nothing here.
        layer_norm_epsilon: eps of the layer norms; that of the norm per head is
            layer_norm_epsilon * head_size_divisor^2.
        rescale_every: a field of older classes. It has no effect here, because the float32
            residual stream does not overflow.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv6"
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
        lora_rank_tokenshift: int | None = None,
        lora_rank_decay: int | None = None,
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
        large = hidden_size >= 4096
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attention_hidden_size = attention_hidden_size or hidden_size
        self.head_size = head_size
        self.head_size_divisor = head_size_divisor
        self.intermediate_size = intermediate_size or int(3.5 * hidden_size) // 32 * 32
        self.lora_rank_tokenshift = lora_rank_tokenshift or (64 if large else 32)
        self.lora_rank_decay = lora_rank_decay or (128 if large else 64)
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
