"""Sets of sampling values that are known to work, each with its source, and which one a model gets.

A preset also says whether ChatRWKV's rules for newlines apply (`wkv.chat.newline_rules`), and
whether a reply ends at the first blank line or where the user's next turn would begin.
"""

from dataclasses import dataclass
from functools import cache

from wkv import demo
from wkv.errors import InputError
from wkv.inference.load import describe, identity
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.tokenizers.choose import PILE_VOCAB_SIZES
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

MAX_REPLY = 1000


@dataclass(frozen=True)
class Preset:
    """How replies are drawn.

    Attributes:
        name: what the user types.
        sampling: without a seed.
        source: who recommends it.
        scheduled: newlines come neither too early nor too late, and marks do not repeat.
        at_blank_line: a reply ends at a blank line; None leaves that to the model's family.
        max_tokens: of one reply.
    """

    name: str
    sampling: Sampling
    source: str
    scheduled: bool = False
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
    scheduled=True,
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
    """The preset of a name.

    Raises:
        InputError: if there is none.
    """
    try:
        return PRESETS[name.lower()]
    except KeyError:
        raise InputError(f"{name!r} is no preset; expected one of {', '.join(PRESETS)}") from None


def preset_for(model: Model) -> Preset:
    """How a model's replies are drawn unless the user says otherwise."""
    if is_built_in(model):
        return EXACT
    return CHATRWKV if is_raven(model) or model.config.generation not in ("7", "7a") else CHAT


def ends_at_blank_line(model: Model, preset: Preset) -> bool:
    """Whether a reply ends at a blank line; replies of RWKV-7 have paragraphs."""
    if preset.at_blank_line is not None:
        return preset.at_blank_line
    return is_built_in(model) or preset_for(model) is CHATRWKV


def is_built_in(model: Model) -> bool:
    """Whether this is the model that comes with wkv, be it converted to another form."""
    if model.path == demo.WEIGHTS:
        return True
    if model.config.vocab_size in (WORLD_VOCAB_SIZE, *PILE_VOCAB_SIZES):
        return False
    return model.identity == _built_in_identity()


@cache
def _built_in_identity() -> str:
    """Taken once: every reply asks."""
    return identity(describe())


def is_raven(model: Model) -> bool:
    """Whether this is a model with the 20B vocabulary, such as Raven."""
    return model.config.vocab_size in PILE_VOCAB_SIZES
