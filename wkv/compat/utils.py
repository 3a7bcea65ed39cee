"""`PIPELINE`, the text interface of the `rwkv` package: encode, sample, generate.

Kept from the package: the order of sampling, the arithmetic of penalties, pieces of chunk_len, no
stop at id 0 unless it is in token_stop. Mended: logits are never changed in place, top_p = 1 keeps
all tokens, text streams in whole characters and loses none, the last token is read too and the
state is kept, a context without tokens is an error, arguments have no shared defaults.

Random numbers come from PyTorch's global generator: torch.manual_seed makes a run repeatable.

Source: `rwkv` package, utils.py.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wkv.errors import InputError, MissingExtraError
from wkv.inference.sampling import UNCOUNTED, banned, sample
from wkv.tokenizers.interface import StreamDecoder
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.world import WORLD_VOCAB_SIZE, WorldTokenizer

WORLD, TIKTOKEN = "rwkv_vocab_v20230424", "cl100k_base"


class ForwardModel(Protocol):
    """What a pipeline needs of a model."""

    def forward(self, tokens: list[int], state: Any) -> tuple[Tensor, Any]:
        """Ids and a state (None: empty) in, logits (V,) and the new state out."""
        ...


@dataclass
class PIPELINE_ARGS:  # noqa: N801 - the package's name
    """How `PIPELINE.generate` draws and when it stops.

    Attributes:
        temperature: acts after top_p and top_k, on the probabilities; 0 is greedy.
        top_p: the most probable tokens that together reach it; 1 keeps all.
        top_k: at most so many tokens; 0 is no limit.
        alpha_frequency: taken from a token's logit for each time it was generated, fading.
        alpha_presence: taken once from the logit of each token that was generated.
        alpha_decay: by which the counts fade with each token.
        token_ban: ids that are never drawn.
        token_stop: ids that end the text; they are not part of it, and are not read.
        chunk_len: the context is read in pieces of so many tokens.
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
        model: anything with `forward(tokens, state)`.
        tokenizer: with encode and decode; may be replaced.
        state: after `generate`: the model's state, which has read the context and all that was
            generated.
    """

    def __init__(self, model: ForwardModel, WORD_NAME: str) -> None:
        """Open the tokenizer.

        Args:
            model: an `RWKV`, or anything else with `forward(tokens, state)`.
            WORD_NAME: "rwkv_vocab_v20230424" (World), "cl100k_base" (of tiktoken), or a file: a
                `.txt` vocabulary in World format, else a `tokenizer.json` such as that of 20B.

        Raises:
            TokenizerError: if the file cannot be used.
            MissingExtraError: if tiktoken is needed and not installed.
        """
        self.model = model
        self.state: Any = None
        self.tokenizer = _open(str(WORD_NAME), _vocab_size(model))

    def refine_context(self, context: str) -> str:
        """The text without blanks around its lines and without empty lines, after a newline."""
        lines = (line.strip() for line in context.split("\n"))
        return "\n" + "\n".join(line for line in lines if line)

    def encode(self, x: str) -> list[int]:
        """Ids of a text."""
        ids = self.tokenizer.encode(x)
        return list(getattr(ids, "ids", ids))  # the tokenizers library wraps them

    def decode(self, x: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        text: str = self.tokenizer.decode(x)
        return text

    def sample_logits(
        self, logits: Tensor, temperature: float = 1.0, top_p: float = 0.85, top_k: int = 0
    ) -> int:
        """Draw a token: nucleus, then top_k, then temperature.

        Args:
            logits: (V,) of any float dtype, not changed.
            temperature: 0 takes the most probable token; of several, any.
            top_p: the most probable tokens that together reach it; 1 or more keeps all.
            top_k: at most so many tokens; 0 is no limit.

        Raises:
            InputError: for logits that are not finite, or a temperature below 0.
        """
        if not 0 <= temperature < math.inf:
            raise InputError(f"temperature is {temperature}, expected a number of at least 0")
        if temperature == 0:
            temperature, top_p = 1.0, 0.0
        return sample(logits, temperature=temperature, top_p=top_p, top_k=int(top_k))

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
            ctx: what to continue; at least one token.
            token_count: at most so many tokens are added.
            args: how to draw and when to stop; None is `PIPELINE_ARGS()`.
            callback: is given the text as it comes, in whole characters.
            state: what was read before ctx. The models of `wkv.compat` overwrite it.

        Returns:
            What was added. A character that was cut off at the end is U+FFFD. The state that has
            read all of it is in `state`.

        Raises:
            InputError: for a context without tokens, and for arguments that cannot be.
        """
        args = PIPELINE_ARGS() if args is None else args
        logits = self._read(self.encode(ctx), state, args.chunk_len)
        decoder = StreamDecoder(_as_bytes(self.tokenizer))
        weights: dict[int, float] = {}
        pieces: list[str] = []

        def tell(piece: str) -> None:
            if piece:
                pieces.append(piece)
                if callback is not None:
                    callback(piece)

        for _ in range(token_count):
            token = self.sample_logits(
                _adjusted(logits, weights, args), args.temperature, args.top_p, args.top_k
            )
            if token in args.token_stop:
                break
            for known in weights:
                weights[known] *= args.alpha_decay
            weights[token] = weights.get(token, 0) + self._weight(token)
            tell(decoder.push(token))
            logits, self.state = self.model.forward([token], self.state)
        tell(decoder.flush())
        return "".join(pieces)

    def _read(self, tokens: list[int], state: Any, chunk_len: int) -> Tensor:
        """Feed the context to the model piece by piece; the logits after it."""
        if not tokens:
            raise InputError("the context has no tokens; give some text, such as a newline")
        if chunk_len < 1:
            raise InputError(f"chunk_len is {chunk_len}, expected at least 1 token")
        self.state = state
        for start in range(0, len(tokens), chunk_len):
            piece = tokens[start : start + chunk_len]
            logits, self.state = self.model.forward(piece, self.state)
        return logits

    def _weight(self, token: int) -> int:
        """What a token adds to its count: nothing for a blank or a digit, else 1."""
        text = self.decode([token])
        if not text and isinstance(self.tokenizer, WorldTokenizer):
            return 1  # in the package, a World id without text is U+FFFD, no blank
        return 0 if text in UNCOUNTED else 1


class _TextOnly:
    """A tokenizer without decode_bytes, such as a program's own: the text of each token alone."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 of the text of ids."""
        return str(self._tokenizer.decode(list(ids))).encode("utf-8", "replace")


def _as_bytes(tokenizer: Any) -> Any:
    """The tokenizer, or one on top of it, that has decode_bytes."""
    return tokenizer if hasattr(tokenizer, "decode_bytes") else _TextOnly(tokenizer)


def _adjusted(logits: Tensor, weights: dict[int, float], args: PIPELINE_ARGS) -> Tensor:
    """Logits (V,) float32 less the penalties, with banned ids at minus infinity; a new tensor.

    The penalty of an id is alpha_presence + weight * alpha_frequency.
    """
    logits = logits.float()
    if len(args.token_ban):
        logits = banned(logits, args.token_ban)
        if not bool((logits > -torch.inf).any()):
            raise InputError("token_ban holds all ids, so no token can be drawn; ban fewer")
    if not weights:
        return logits
    ids = torch.tensor(list(weights), device=logits.device)
    # Python's numbers, rounded once, as the package does: no greedy choice may hang on it
    penalties = [args.alpha_presence + w * args.alpha_frequency for w in weights.values()]
    return logits.index_add(0, ids, -logits.new_tensor(penalties))


def _vocab_size(model: Any) -> int:
    """Rows of the model's embedding, 0 where it does not tell."""
    size = getattr(getattr(model, "args", None), "vocab_size", 0)
    return size if isinstance(size, int) else 0


def _open(name: str, vocab_size: int) -> Any:
    """The tokenizer of a name or file; further ids of the model's stand for no text."""
    if name == WORLD:
        return WorldTokenizer(vocab_size=max(vocab_size, WORLD_VOCAB_SIZE))
    if name == TIKTOKEN:
        try:
            return import_module("tiktoken").get_encoding(TIKTOKEN)
        except ImportError as error:
            raise MissingExtraError(
                f"{TIKTOKEN} is a vocabulary of tiktoken, which is not installed; run: pip install "
                "tiktoken"
            ) from error
    if name.endswith(".txt"):
        return WorldTokenizer(Path(name), vocab_size)
    return PileTokenizer(Path(name), vocab_size)
