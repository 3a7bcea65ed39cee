"""The base classes of all generations: networks with the interface that transformers expects.

A block is called as

    X, att_shift, wkv, ffn_shift, *shared = block(X, padding, att_shift, wkv, ffn_shift, *shared)

`shared` are the tensors that are passed from block to block. All arguments are positional and no
tensor is changed in place, so that gradient checkpointing can call a block twice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from wkv.hf.arguments import (
    check_input,
    chosen_cache,
    refuse_attentions,
    refuse_dynamic_length,
    refuse_lost_cache,
    refuse_other_names,
    refuse_unknown,
    report_untested_version,
)
from wkv.hf.cache import CACHE_NAME, RwkvCache
from wkv.hf.config_checks import CACHE_NAMES
from wkv.hf.packing import Documents, document_starts
from wkv.hf.parts import LayerNorm, Padding, linear, padding_of, widen

LOSS_ARGUMENTS = ("num_items_in_batch", "ignore_index", "shift_labels")
"""Arguments that are passed to transformers' loss function."""


class PretrainedRwkv(PreTrainedModel):
    """The base class of models with and without head."""

    supports_gradient_checkpointing = True
    _skip_keys_device_placement = list(CACHE_NAMES)
    _is_stateful = True
    head_name = "head"
    auto_name = "AutoModel"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model as transformers does, but refuse files with other tensor names.

        transformers would only print a report, and return a model with random weights. A caller
        who asks for the report (output_loading_info) gets both.

        Raises:
            ValueError: if the checkpoint lacks tensors of the network and has unknown ones instead.
        """
        is_remote = cls.__module__.partition(".")[0] == "transformers_modules"
        if is_remote and cls._auto_class is None:  # otherwise saving would lose the code of RWKV-4
            cls.register_for_auto_class(cls.auto_name)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        if output_loading_info:
            return model, report
        refuse_other_names(pretrained_model_name_or_path, report, cls.head_name)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize matrices as transformers does, and other parameters by `module.initialize`."""
        super()._init_weights(module)
        initialize = getattr(module, "initialize", None)
        if callable(initialize):
            initialize()


class HubBlock(GradientCheckpointingLayer):
    """A layer of generations 4 to 6: time mix and channel mix, added to the residual stream."""

    def __init__(
        self, config: Any, layer: int, attention: nn.Module, feed_forward: nn.Module
    ) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.layer_norm_epsilon
        if layer == 0:
            self.pre_ln = LayerNorm(D, eps)
        self.first = layer == 0
        self.ln1, self.ln2 = LayerNorm(D, eps), LayerNorm(D, eps)
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(
        self,
        X: Tensor,
        padding: Padding | None,
        att_shift: Tensor,
        wkv: Tensor,
        ffn_shift: Tensor,
    ) -> tuple[Tensor, ...]:
        """Update the residual stream (B, T, D) and the state of the layer."""
        if self.first:
            X = self.pre_ln(X)
        out, att_shift, wkv = self.attention(self.ln1(X), att_shift, wkv, padding)
        X = X + out
        out, ffn_shift = self.feed_forward(self.ln2(X), ffn_shift, padding)
        return X + out, att_shift, wkv, ffn_shift


class Backbone(PretrainedRwkv):
    """A network without head, which computes the normalized residual stream and the state.

    A subclass sets the names of its parts to those in its checkpoints, and implements `new_wkv`.
    """

    blocks_name = "blocks"
    norm_name = "ln_out"

    def __init__(
        self, config: Any, make_block: Callable[[int], nn.Module], norm: LayerNorm
    ) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        blocks = [make_block(layer) for layer in range(config.num_hidden_layers)]
        self.add_module(self.blocks_name, nn.ModuleList(blocks))
        self.add_module(self.norm_name, norm)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding."""
        self.embeddings = value

    def new_wkv(self, X: Tensor) -> Tensor:
        """Return the initial recurrent state of a layer, in the dtype of X (B, T, D)."""
        raise NotImplementedError

    def shared_at_start(self, input_ids: Tensor | None) -> tuple[Tensor, ...]:
        """Return the initial values of the tensors that are passed from block to block."""
        return ()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: RwkvCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: RwkvCache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Process T tokens in each of B rows.

        Args:
            input_ids: (B, T) int64; alternatively inputs_embeds, (B, T, D).
            inputs_embeds: (B, T, D), the embeddings of the tokens.
            attention_mask: (B, T or more), 0 for padding, which may be anywhere and does not
                change the result; the last T columns belong to these tokens.
            past_key_values: the state after earlier tokens; it is not modified.
            use_cache: whether to return the new state. By default the config decides, and no state
                is returned during training. Gradients flow through the state only during training.
            output_hidden_states: whether to return the residual stream before each block.
            cache: the name of past_key_values since transformers 5.24.
            kwargs: position_ids, seq_idx or cumulative lengths, if several documents are packed
                into one row: each then starts from the empty state, and no new state is returned.
                Other arguments that cannot change the result are accepted, all others are refused.

        Raises:
            ValueError: if neither or both of ids and embeddings are given, they have no tokens, the
                mask has a wrong shape, two caches are given, packed documents shall use a cache, or
                the model is exported for any number of tokens.
            TypeError: if the cache is not an RwkvCache, or an argument is unknown.
        """
        previous = chosen_cache(cache, past_key_values)
        refuse_attentions(kwargs)
        given = check_input(inputs_embeds if input_ids is None else input_ids)
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("give either input_ids or inputs_embeds")
        starts = document_starts(kwargs, attention_mask, *given.shape[:2])
        refuse_unknown(kwargs, type(self).__name__)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if starts is not None:
            if previous.states or use_cache:
                raise ValueError(
                    "several documents lie in one row, which can neither continue a cache nor "
                    "return one; give no cache and use_cache=False, or one row per document"
                )
            return self._forward_documents(
                Documents(starts), input_ids, attention_mask, inputs_embeds, output_hidden_states
            )
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        X = widen(self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds)
        refuse_dynamic_length(X)
        padding = padding_of(attention_mask, X)
        shift = X.new_zeros(X.shape[0], X.shape[2])
        initial = None if previous.states else (shift, self.new_wkv(X), shift)

        shared = self.shared_at_start(input_ids)
        new_states, hidden = [], []
        for layer, block in enumerate(self.get_submodule(self.blocks_name)):
            if output_hidden_states:
                hidden.append(X)
            state = initial or previous.states[layer]
            X, att_shift, wkv, ffn_shift, *shared = block(X, padding, *state, *shared)
            new_states.append((att_shift, wkv, ffn_shift))
        if not self.training:  # otherwise decoding would keep the graph of all tokens in memory
            new_states = [tuple(tensor.detach() for tensor in state) for state in new_states]
        X = self.get_submodule(self.norm_name)(X)
        new_cache = RwkvCache(new_states, previous.seen + X.shape[1]) if use_cache else None
        return BaseModelOutputWithPast(
            last_hidden_state=X,
            hidden_states=(*hidden, X) if output_hidden_states else None,
            **{CACHE_NAME: new_cache},
        )

    def _forward_documents(
        self,
        documents: Documents,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPast:
        """Process each document from the empty state, and put the results where its tokens are."""
        outputs = [
            self.forward(
                None if input_ids is None else documents.rows_of(input_ids, places),
                documents.masks(attention_mask, places),
                None if inputs_embeds is None else documents.rows_of(inputs_embeds, places),
                use_cache=False,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
            for places in documents.places
        ]
        hidden = zip(*(output.hidden_states or () for output in outputs), strict=True)
        return BaseModelOutputWithPast(
            last_hidden_state=documents.joined([output.last_hidden_state for output in outputs]),
            hidden_states=tuple(documents.joined(list(layer)) for layer in hidden) or None,
        )


class CausalLM(PretrainedRwkv, GenerationMixin):
    """A language model: a backbone and the head that predicts the next token.

    A subclass sets the name of the head to that in its checkpoints. The name of the backbone is
    `base_model_prefix`.
    """

    auto_name = "AutoModelForCausalLM"

    def __init__(self, config: Any, backbone: Backbone) -> None:
        report_untested_version()
        super().__init__(config)
        self.add_module(self.base_model_prefix, backbone)
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.add_module(self.head_name, head)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head."""
        return self.get_submodule(self.head_name)

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the head."""
        setattr(self, self.head_name, value)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Begin generation with an RwkvCache; transformers would create none for these models."""
        given = model_kwargs.get(CACHE_NAME)
        if given is not None:
            given._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = RwkvCache()

    def _get_initial_cache_position(
        self, seq_length: int, device: torch.device, model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the positions of the first tokens; only transformers before 5.3 calls this.

        After a cache, those versions expect all tokens again and return no positions if they get
        only the new tokens. Here the new tokens get positions in this case too.
        """
        cache = model_kwargs.get(CACHE_NAME)
        seen = cache.get_seq_length() if cache is not None else 0
        if seen and seq_length <= seen:
            positions = torch.arange(seen, seen + seq_length, device=device)
            model_kwargs["cache_position"] = positions  # in place, because the caller uses it later
            return model_kwargs
        kwargs: dict[str, Any] = super()._get_initial_cache_position(
            seq_length, device, model_kwargs
        )
        return kwargs

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        inputs_embeds: Tensor | None = None,  # explicit, because transformers checks for the name
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare the arguments of the next forward pass as transformers does.

        Raises:
            RuntimeError: if transformers has dropped the cache of earlier tokens.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, *args, inputs_embeds=inputs_embeds, **kwargs
        )
        refuse_lost_cache(input_ids, inputs)
        return inputs

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: RwkvCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: RwkvCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token after each of T tokens in each of B rows.

        Args:
            input_ids, attention_mask, inputs_embeds, past_key_values, use_cache,
                output_hidden_states, cache: passed to the backbone, see `Backbone.forward`.
            labels: (B, T), the ids, with -100 for tokens that are not predicted. They are not
                shifted: the loss shifts them by one.
            logits_to_keep: number of tokens at the end for which logits are computed (0: all), or
                the indices of these tokens.
            kwargs: those in LOSS_ARGUMENTS are passed to the loss, the others to the backbone. If
                documents are packed, set the labels of their first tokens to -100.

        Returns:
            logits (B, T, V) float32, the new state, and with labels the mean cross entropy.
        """
        for_loss = {name: kwargs.pop(name) for name in LOSS_ARGUMENTS if name in kwargs}
        output = self.get_submodule(self.base_model_prefix)(
            input_ids,
            attention_mask,
            inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            past_key_values=past_key_values,
            cache=cache,
            **kwargs,
        )
        X = output.last_hidden_state
        tokens = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = linear(self.get_output_embeddings(), X[:, tokens])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **for_loss
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            **{CACHE_NAME: output.get(CACHE_NAME)},
        )
