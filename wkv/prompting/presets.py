"""Recommended sampling parameters with their sources, and the default choice for each model.

A preset also selects whether ChatRWKV's rules for newlines apply (`wkv.chat.newline_rules`), and
whether a reply ends at the first blank line or at the beginning of the user's next turn.
"""

from dataclasses import dataclass
from functools import cache

from wkv import demo
from wkv.errors import InputError
from wkv.inference.describe import describe, identity
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.tokenizers.choose import PILE_VOCAB_SIZES
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

MAX_REPLY = 1000


@dataclass(frozen=True)
class Preset:
    """Parameters for the generation of replies.

    Attributes:
        name: the name that a user types.
        sampling: the sampling parameters, without a seed.
        source: where the values are recommended.
        has_newline_rules: whether ChatRWKV's rules for newlines and repeated punctuation apply.
        at_blank_line: whether a reply ends at a blank line; None: it depends on the model's family.
        max_tokens: the largest number of tokens of a reply.
    """

    name: str
    sampling: Sampling
    source: str
    has_newline_rules: bool = False
    at_blank_line: bool | None = None
    max_tokens: int = MAX_REPLY


def _sampling(
    temperature: float, top_p: float, presence: float, frequency: float, decay: float = 0.996
) -> Sampling:
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        presence_penalty=presence,
        frequency_penalty=frequency,
        penalty_decay=decay,
    )


CHAT = Preset("chat", _sampling(1.0, 0.3, 0.5, 0.5), "ChatRWKV, API_DEMO_CHAT")
CHATRWKV = Preset(
    "chatrwkv",
    Sampling(
        temperature=1.2,
        top_p=0.5,
        presence_penalty=0.4,
        frequency_penalty=0.4,
        penalty_decay=0.996,
        count_digits=True,
    ),
    "ChatRWKV, chat.py",
    has_newline_rules=True,
    at_blank_line=True,
    max_tokens=999,
)
CREATIVE = Preset("creative", _sampling(0.6, 0.8, 2.0, 0.2, 0.99), "rwkv.cn")
PRECISE = Preset("precise", _sampling(0.3, 0.3, 0, 0), "rwkv.cn, questions and code")
REASON = Preset("reason", _sampling(0.3, 0.3, 0, 0), "BlinkDL, g0 model card", max_tokens=8192)
EXACT = Preset(
    "exact",
    Sampling(temperature=0, presence_penalty=0, frequency_penalty=0),
    "rwkv.cn, mechanical tasks",
)

PRESETS = {preset.name: preset for preset in (CHAT, CHATRWKV, CREATIVE, PRECISE, REASON, EXACT)}


def preset_named(name: str) -> Preset:
    """Return the preset with a name.

    Raises:
        InputError: if no preset has this name.
    """
    try:
        return PRESETS[name.lower()]
    except KeyError:
        raise InputError(
            f"{name!r} is not a preset; expected one of {', '.join(PRESETS)}"
        ) from None


def preset_for(model: Model) -> Preset:
    """Return the default preset of a model."""
    if is_built_in(model):
        return EXACT
    return CHATRWKV if is_raven(model) or model.config.generation not in ("7", "7a") else CHAT


def ends_at_blank_line(model: Model, preset: Preset) -> bool:
    """Return whether a reply ends at a blank line. Replies of RWKV-7 have paragraphs."""
    if preset.at_blank_line is not None:
        return preset.at_blank_line
    return is_built_in(model) or preset_for(model) is CHATRWKV


def is_built_in(model: Model) -> bool:
    """Return whether this is the model that is part of wkv, possibly converted."""
    if model.path == demo.WEIGHTS:
        return True
    if model.config.vocab_size in (WORLD_VOCAB_SIZE, *PILE_VOCAB_SIZES):
        return False
    return model.identity == _built_in_identity()


@cache
def _built_in_identity() -> str:
    """Return the identity of the built-in model; computed once, because every reply needs it."""
    return identity(describe())


def is_raven(model: Model) -> bool:
    """Return whether a model has the 20B vocabulary, like Raven."""
    return model.config.vocab_size in PILE_VOCAB_SIZES
