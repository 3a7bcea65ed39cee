"""How replies are made, and changing it by name: `+set`."""

from dataclasses import dataclass, replace

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.prompting.presets import Preset, is_built_in, preset_for, preset_named
from wkv.prompting.template import Thinking

SAMPLING_KEYS = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "presence_penalty": float,
    "frequency_penalty": float,
    "penalty_decay": float,
}
KEYS = (*SAMPLING_KEYS, "max_tokens", "preset")


@dataclass(frozen=True)
class Settings:
    """How replies are made.

    Attributes:
        preset: where the values came from; also decides on schedule and stop.
        sampling: how tokens are drawn.
        max_tokens: of one reply; at least 1.
        thinking: how much the model thinks first.
        prose: how `+gen` draws, if not like replies.
    """

    preset: Preset
    sampling: Sampling
    max_tokens: int
    thinking: Thinking = Thinking.PLAIN
    prose: Sampling | None = None

    def __post_init__(self) -> None:
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens!r}, expected a whole number, from 1")

    @classmethod
    def of(cls, preset: Preset, sampling: Sampling | None = None) -> "Settings":
        """Those of a preset."""
        return cls(preset, sampling or preset.sampling, preset.max_tokens)


def default_settings(model: Model) -> Settings:
    """How a model replies unless the user says otherwise; the built-in one writes prose freely."""
    settings = Settings.of(preset_for(model))
    return replace(settings, prose=Sampling()) if is_built_in(model) else settings


def changed(settings: Settings, key: str, value: str) -> Settings:
    """The settings with another value; a preset changes all that it says.

    Raises:
        InputError: for a value that is no number, is out of range, or names no preset.
    """
    if key == "preset":
        fresh = Settings.of(preset_named(value))
        return replace(fresh, thinking=settings.thinking)
    kind = SAMPLING_KEYS.get(key, int)
    try:
        number = kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{key} is {value[:40]!r}, expected {what}") from None
    if key == "max_tokens":
        return replace(settings, max_tokens=int(number))
    return replace(settings, sampling=replace(settings.sampling, **{key: number}), prose=None)


def shown(settings: Settings) -> str:
    """All settings, a line each."""
    values: dict[str, object] = {key: getattr(settings.sampling, key) for key in SAMPLING_KEYS}
    values["max_tokens"] = settings.max_tokens
    values["preset"] = f"{settings.preset.name} ({settings.preset.source})"
    return "\n".join(f"  {key:18} {value}" for key, value in values.items())
