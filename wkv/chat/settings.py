"""Settings of the replies in a chat, and the command `+set` that changes them by name."""

from dataclasses import dataclass, replace

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.prompting.presets import Preset, is_built_in, preset_for, preset_named
from wkv.prompting.template import Thinking
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

SAMPLING_KEYS = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "presence_penalty": float,
    "frequency_penalty": float,
    "penalty_decay": float,
}
NO_LIMIT = 2**62
"""The number of tokens that `max_tokens -1` stands for."""

KEYS = (*SAMPLING_KEYS, "max_tokens", "preset")


@dataclass(frozen=True)
class ChatSettings:
    """Parameters for the generation of replies.

    Attributes:
        preset: the preset that the values come from; it also selects the newline rules and the
            end of a reply.
        sampling: the sampling parameters.
        max_tokens: the largest number of tokens of a reply, at least 1.
        thinking: how much the model thinks before it answers.
        prose: the sampling parameters of `+gen`; None: those of replies.
    """

    preset: Preset
    sampling: Sampling
    max_tokens: int
    thinking: Thinking = Thinking.PLAIN
    prose: Sampling | None = None

    def __post_init__(self) -> None:
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise InputError(
                f"max_tokens is {self.max_tokens!r}, expected a whole number, 1 or more"
            )

    @classmethod
    def of(cls, preset: Preset, sampling: Sampling | None = None) -> "ChatSettings":
        """Return the settings of a preset."""
        return cls(preset, sampling or preset.sampling, preset.max_tokens)


def default_settings(model: Model) -> ChatSettings:
    """Return the default settings of a model; the built-in one has other sampling for prose."""
    settings = ChatSettings.of(preset_for(model))
    return replace(settings, prose=Sampling()) if is_built_in(model) else settings


def can_think(model: Model) -> bool:
    """Return whether a model may have been trained to think, as RWKV-7 with the World vocabulary.

    A file does not tell: G1 models think, and older RWKV-7 World models do not.
    """
    is_world = model.config.vocab_size == WORLD_VOCAB_SIZE
    return is_world and model.config.generation in ("7", "7a")


def changed(settings: ChatSettings, key: str, value: str) -> ChatSettings:
    """Return settings with one value changed; a preset changes all values that it defines.

    Raises:
        InputError: if the value is not a number, is out of range, or is not the name of a preset.
    """
    if key == "preset":
        fresh = ChatSettings.of(preset_named(value))
        return replace(fresh, thinking=settings.thinking)
    kind = SAMPLING_KEYS.get(key, int)
    try:
        number = kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{key} is {value[:40]!r}, expected {what}") from None
    if key == "max_tokens":
        if number < -1:
            raise InputError(f"{key} is {number}, expected a whole number, or -1 for no limit")
        return replace(settings, max_tokens=NO_LIMIT if number == -1 else int(number))
    if key == "top_k" and number == -1:
        number = 0
    return replace(settings, sampling=replace(settings.sampling, **{key: number}), prose=None)


def shown(settings: ChatSettings) -> str:
    """Return all settings as text, one per line."""
    values: dict[str, object] = {key: getattr(settings.sampling, key) for key in SAMPLING_KEYS}
    values["max_tokens"] = "no limit" if settings.max_tokens == NO_LIMIT else settings.max_tokens
    values["preset"] = f"{settings.preset.name} ({settings.preset.source})"
    return "\n".join(f"  {key:18} {value}" for key, value in values.items())
