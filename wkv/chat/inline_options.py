"""Options inside a message, `-temp=0.7` and `-top_p=0.5`, which apply to that message only."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wkv.errors import InputError
from wkv.inference.sampling import Sampling

OPTION = re.compile(r"[ \t]?-(temp|top_p)=(\S*)", re.IGNORECASE)
FIELDS = {"temp": "temperature", "top_p": "top_p"}
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.2, 5.0


@dataclass(frozen=True)
class InlineOptions:
    """A message without its options, and the values of the options.

    Attributes:
        text: the message without its options.
        values: the clamped values by the name of a field of `Sampling`.
    """

    text: str
    values: Mapping[str, float]

    def apply(self, sampling: Sampling) -> Sampling:
        """Return sampling parameters with the values of the options."""
        return replace(
            sampling,
            temperature=self.values.get("temperature", sampling.temperature),
            top_p=self.values.get("top_p", sampling.top_p),
        )


def split_options(line: str) -> InlineOptions:
    """Separate the options from the text of a line.

    Temperature is clamped to [0.2, 5], top_p to [0, 1].

    Raises:
        InputError: if a value is not a number; the message must not be sent then.
    """
    values = {}
    for match in OPTION.finditer(line):
        name, written = match[1].lower(), match[2]
        try:
            value = float(written)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"-{name}={written[:40]} is not a number; write it as in -{name}=0.5 (the message "
                "was not sent)"
            )
        low, high = (MIN_TEMPERATURE, MAX_TEMPERATURE) if name == "temp" else (0.0, 1.0)
        values[FIELDS[name]] = min(max(value, low), high)
    return InlineOptions(OPTION.sub("", line).strip(" \t"), values)
