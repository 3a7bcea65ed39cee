"""`PIPELINE`, the text interface of the `rwkv` package: encode, sample, generate.

As in the package: the order of the sampling steps, the arithmetic of penalties, reading the context
in chunks of chunk_len, and no stop at id 0 unless it is in token_stop. Fixed: logits are never
changed in place, top_p = 1 allows all tokens, text is streamed in whole characters without losing
any, the last token is read too and the state is stored, a context without tokens raises an error,
and default arguments are not shared between instances.

Random numbers come from PyTorch's global generator: torch.manual_seed makes a run repeatable.

Source: `rwkv` package, utils.py.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wkv.compat.rwkv_tokenizer import TRIE_TOKENIZER
from wkv.errors import InputError, MissingExtraError
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import UNCOUNTED, Sampler, Sampling
from wkv.tokenizers.choose import name_for, size_mismatch
from wkv.tokenizers.interface import StreamDecoder
from wkv.tokenizers.library import open_library_tokenizer
from wkv.tokenizers.world import WorldTokenizer, official_vocabulary

WORLD, TIKTOKEN = "rwkv_vocab_v20230424", "cl100k_base"

WORD_NAMES = {"world": WORLD, "20b": "20B_tokenizer.json"}
"""The usual argument of `PIPELINE` for each tokenizer of wkv."""


class ForwardModel(Protocol):
    """The methods of a model that a pipeline uses."""

    def forward(self, tokens: list[int], state: Any) -> tuple[Tensor, Any]:
        """Read ids after a state (None: empty), and return the logits (V,) and the new state."""
        ...


@dataclass
class PIPELINE_ARGS:  # noqa: N801 - the package's name
    """Sampling parameters and stop conditions of `PIPELINE.generate`.

    Attributes:
        temperature: applied to the probabilities after top_p and top_k; 0 is greedy.
        top_p: sample from the most likely tokens that together reach this probability; 1: all.
        top_k: sample from at most this many tokens; 0: no limit.
        alpha_frequency: subtracted from a token's logit for each (decayed) occurrence.
        alpha_presence: subtracted once from the logit of each generated token.
        alpha_decay: factor by which the occurrence counts shrink with each token.
        token_ban: ids that are never sampled.
        token_stop: ids that end the text; they are not part of it, and are not read.
        chunk_len: number of tokens per chunk in which the context is read.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    alpha_frequency: float = 0.2
    alpha_presence: float = 0.2
    alpha_decay: float = 0.996
    token_ban: Sequence[int] = field(default_factory=list)
    token_stop: Sequence[int] = field(default_factory=list)
    chunk_len: int = 256


class PIPELINE:
    """A model and its tokenizer.

    Attributes:
        model: any object with `forward(tokens, state)`.
        tokenizer: as in the package a `TRIE_TOKENIZER`, a `tokenizers.Tokenizer` or a tiktoken
            encoding; it may be replaced by any object with encode and decode.
        state: after `generate`, the model's state after the context and the generated text.
    """

    def __init__(self, model: ForwardModel, WORD_NAME: str) -> None:
        """Open the tokenizer.

        A warning is logged if the tokenizer can hardly be that of the model.

        Args:
            model: an `RWKV`, or any other object with `forward(tokens, state)`.
            WORD_NAME: "rwkv_vocab_v20230424" (World), "cl100k_base" (of tiktoken), or a file: a
                `.txt` vocabulary in World format, else a `tokenizer.json` such as that of 20B.

        Raises:
            TokenizerError: if the file cannot be used.
            MissingExtraError: if tiktoken is required and not installed.
        """
        self.model = model
        self.state: Any = None
        self.tokenizer = _open(str(WORD_NAME), _vocab_size(model))
        _warn_of_mismatch(str(WORD_NAME), self.tokenizer, _vocab_size(model))

    def refine_context(self, context: str) -> str:
        """Strip the lines of a text, remove empty lines, and prepend a newline."""
        lines = (line.strip() for line in context.split("\n"))
        return "\n" + "\n".join(line for line in lines if line)

    def encode(self, x: str) -> list[int]:
        """Return the ids of a text."""
        ids = self.tokenizer.encode(x)
        return list(getattr(ids, "ids", ids))  # the tokenizers library wraps them

    def decode(self, x: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        text: str = self.tokenizer.decode(list(x))
        return text

    def sample_logits(
        self,
        logits: Tensor | np.ndarray | Sequence[float],
        temperature: float = 1.0,
        top_p: float = 0.85,
        top_k: int = 0,
    ) -> int:
        """Sample a token: apply top_p, then top_k, then the temperature.

        Args:
            logits: (V,), a tensor of any float dtype, an array or a list; they are not changed.
            temperature: 0 takes the most likely token; ties are broken arbitrarily.
            top_p: sample from the most likely tokens that together reach it; 1 or more: all.
            top_k: sample from at most this many tokens; 0: no limit.

        Raises:
            InputError: if the logits are not finite numbers of shape (V,), or the temperature is
                negative.
        """
        if not isinstance(logits, Tensor):
            logits = torch.from_numpy(np.array(logits, dtype=np.float32))
        if logits.ndim != 1 or not len(logits):
            raise InputError(
                f"the logits have the shape {tuple(logits.shape)}, expected (V,); pass the logits "
                "after one token"
            )
        if not 0 <= temperature < math.inf:
            raise InputError(
                f"temperature is {temperature}, expected a finite number of at least 0"
            )
        if temperature == 0:
            temperature, top_p = 1.0, 0.0
        # The seed comes from PyTorch, so that torch.manual_seed makes a text repeatable.
        sampling = Sampling(
            temperature=temperature,
            top_p=min(max(top_p, 0.0), 1.0),
            top_k=max(int(top_k), 0),
            seed=int(torch.randint(2**63 - 1, ())),
        )
        (token,) = sample_batch(logits[None], [Sampler(sampling)])
        if isinstance(token, InputError):
            raise token
        return token

    def generate(
        self,
        ctx: str,
        token_count: int = 100,
        args: PIPELINE_ARGS | None = None,
        callback: Callable[[str], Any] | None = None,
        state: Any = None,
    ) -> str:
        """Continue a text.

        Args:
            ctx: the text to continue; at least one token.
            token_count: maximum number of tokens to generate.
            args: sampling parameters and stop conditions; None: `PIPELINE_ARGS()`.
            callback: called with each new piece of text, in whole characters.
            state: the state before ctx. The models of `wkv.compat` overwrite it.

        Returns:
            The generated text. An incomplete character at the end becomes U+FFFD. The attribute
            `state` is the state after the whole text.

        Raises:
            InputError: if the context has no tokens, or an argument is out of range.
        """
        args = PIPELINE_ARGS() if args is None else args
        logits = self._read(self.encode(ctx), state, args.chunk_len)
        decoder = StreamDecoder(self.tokenizer)
        weights: dict[int, float] = {}
        pieces: list[str] = []

        def emit(piece: str) -> None:
            if piece:
                pieces.append(piece)
                if callback is not None:
                    callback(piece)

        for _ in range(token_count):
            token = self.sample_logits(
                _penalized(logits, weights, args), args.temperature, args.top_p, args.top_k
            )
            if token in args.token_stop:
                break
            for known in weights:
                weights[known] *= args.alpha_decay
            weights[token] = weights.get(token, 0) + self._weight(token)
            emit(decoder.push(token))
            logits, self.state = self.model.forward([token], self.state)
        emit(decoder.flush())
        return "".join(pieces)

    def _read(self, tokens: list[int], state: Any, chunk_len: int) -> Tensor:
        """Read the context in chunks, and return the logits after it."""
        if not tokens:
            raise InputError("the context has no tokens; pass some text, such as a newline")
        if chunk_len < 1:
            raise InputError(f"chunk_len is {chunk_len}, expected at least 1 token")
        self.state = state
        for start in range(0, len(tokens), chunk_len):
            piece = tokens[start : start + chunk_len]
            logits, self.state = self.model.forward(piece, self.state)
        return logits

    def _weight(self, token: int) -> int:
        """Return what a token adds to its count: 0 for a blank or a digit, otherwise 1."""
        text = self.decode([token])
        if not text and isinstance(self.tokenizer, WorldTokenizer):
            return 1  # the package decodes a World id without text as U+FFFD, which is not a blank
        return 0 if text in UNCOUNTED else 1


def _penalized(logits: Tensor, weights: dict[int, float], args: PIPELINE_ARGS) -> Tensor:
    """Return new logits (V,) float32 with penalties subtracted and banned ids at minus infinity.

    The penalty of an id is alpha_presence + weight * alpha_frequency.
    """
    logits = logits.float()
    if len(args.token_ban):
        wrong = [token for token in args.token_ban if not 0 <= token < len(logits)]
        if wrong:
            raise InputError(
                f"banned ids (token_ban) must be 0 to {len(logits) - 1}, {wrong} were given"
            )
        logits = logits.index_fill(
            0, torch.tensor(list(args.token_ban), device=logits.device), -torch.inf
        )
        if not bool((logits > -torch.inf).any()):
            raise InputError("token_ban contains all ids, so no token can be sampled; ban fewer")
    if not weights:
        return logits
    ids = torch.tensor(list(weights), device=logits.device)
    # Penalties are computed in Python floats and rounded once, as in the package, so that the
    # greedy choice is the same.
    penalties = [args.alpha_presence + w * args.alpha_frequency for w in weights.values()]
    return logits.index_add(0, ids, -logits.new_tensor(penalties))


def _vocab_size(model: Any) -> int:
    """Return the number of rows of the model's embedding, or 0 if it is unknown."""
    size = getattr(getattr(model, "args", None), "vocab_size", 0)
    return size if isinstance(size, int) else 0


def _open(name: str, vocab_size: int) -> Any:
    """Open a tokenizer by name or file."""
    if name == WORLD:
        return TRIE_TOKENIZER(official_vocabulary(), vocab_size)
    if name == TIKTOKEN:
        try:
            return import_module("tiktoken").get_encoding(TIKTOKEN)
        except ImportError as error:
            raise MissingExtraError(
                f"{TIKTOKEN} is a vocabulary of tiktoken, which is not installed; run: pip install "
                "tiktoken"
            ) from error
    if name.endswith(".txt"):
        return TRIE_TOKENIZER(name, vocab_size)
    return open_library_tokenizer(Path(name))


def _warn_of_mismatch(name: str, tokenizer: Any, vocab_size: int) -> None:
    """Log a warning if a tokenizer of another size than the model was opened."""
    if isinstance(tokenizer, TRIE_TOKENIZER):
        n_ids, n_tokens = max(tokenizer.idx2token) + 1, tokenizer.n_tokens
    elif hasattr(tokenizer, "get_vocab_size"):
        n_ids = n_tokens = tokenizer.get_vocab_size()
    else:
        return
    problem = size_mismatch(name, n_ids, n_tokens, vocab_size)
    if problem is not None:
        usual = WORD_NAMES.get(name_for(vocab_size) or "")
        advice = "pass the tokenizer that the model was trained with"
        if usual is not None:
            advice = f"models of this size use PIPELINE(model, {usual!r})"
        logging.getLogger(__name__).warning("%s; %s", problem, advice)
