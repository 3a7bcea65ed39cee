"""The config class of RWKV-7, `RWKV7Config`; it does not need torch."""

from typing import Any, ClassVar

from transformers import PretrainedConfig

from wkv.hf.config_checks import CACHE_NAMES, check, check_activation


def default_rank(width: int, power: float, factor: float) -> int:
    """Return the default rank of a low-rank map, a multiple of 32."""
    return max(32, round(factor * width**power / 32) * 32)


class RWKV7Config(PretrainedConfig):
    """The configuration of an RWKV-7 model, with the field names of fla.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        head_dim: N.
        num_heads: H; by default D / N.
        intermediate_size: F, width of the channel mix; by default hidden_ratio * D.
        hidden_ratio: F / D if intermediate_size is not given.
        decay_low_rank_dim, a_low_rank_dim, v_low_rank_dim, gate_low_rank_dim: ranks of w_lora,
            a_lora, v_lora and g_lora; by default those of official models of this width.
        value_dim: width of the values of each layer, which must be H * N for every layer.
        norm_eps: eps of the layer norms; by default that of the norm per head is norm_eps * N.
        group_norm_eps: eps of the norm per head, if it is not norm_eps * N.
        norm_first, norm_bias, hidden_act, attn: only the values of an RWKV-7 are accepted.
        attn_mode, fuse_norm, fuse_cross_entropy: fla's choice of kernels; stored but not used.
        max_position_embeddings: the maximum length that other programs assume; it limits nothing
            here.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv7"
    keys_to_ignore_at_inference: ClassVar = list(CACHE_NAMES)

    def __init__(
        self,
        vocab_size: int = 65536,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        head_dim: int = 64,
        num_heads: int | None = None,
        intermediate_size: int | None = None,
        hidden_ratio: float | None = 4.0,
        decay_low_rank_dim: int | None = None,
        a_low_rank_dim: int | None = None,
        v_low_rank_dim: int | None = None,
        gate_low_rank_dim: int | None = None,
        value_dim: int | list[int] | None = None,
        norm_eps: float = 1e-5,
        group_norm_eps: float | None = None,
        norm_first: bool = True,
        norm_bias: bool = True,
        hidden_act: str = "sqrelu",
        attn: dict[str, Any] | None = None,
        attn_mode: str = "chunk",
        fuse_norm: bool = False,
        fuse_cross_entropy: bool = False,
        max_position_embeddings: int = 1048576,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        bos_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 0,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        D = hidden_size
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.head_dim = head_dim
        self.num_heads = num_heads or hidden_size // head_dim
        self.intermediate_size = intermediate_size or int((hidden_ratio or 4.0) * D)
        self.hidden_ratio = hidden_ratio
        self.decay_low_rank_dim = decay_low_rank_dim or default_rank(D, 0.5, 1.8)
        self.a_low_rank_dim = a_low_rank_dim or default_rank(D, 0.5, 1.8)
        self.v_low_rank_dim = v_low_rank_dim or default_rank(D, 0.5, 1.3)
        self.gate_low_rank_dim = gate_low_rank_dim or default_rank(D, 0.8, 0.6)
        width = self.num_heads * head_dim
        if isinstance(value_dim, int):
            value_dim = [value_dim] * num_hidden_layers
        self.value_dim = value_dim or [width] * num_hidden_layers
        self.norm_eps = norm_eps
        self.group_norm_eps = group_norm_eps
        self.norm_first = norm_first
        self.norm_bias = norm_bias
        self.hidden_act = hidden_act
        self.attn = attn
        self.attn_mode = attn_mode
        self.fuse_norm = fuse_norm
        self.fuse_cross_entropy = fuse_cross_entropy
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
        check(set(self.value_dim) == {width}, f"value_dim {self.value_dim}", f"{width} throughout")
        check(norm_first and norm_bias, "norm_first or norm_bias false", "both true")
        check_activation({"hidden_act": hidden_act})
        check(attn is None, "attention in some layers (attn)", "none")
