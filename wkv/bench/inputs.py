"""The input that a model reads during a measurement.

It is English text if the model has a tokenizer, because the number of activations that are zero,
and whose weights can be skipped, depends on the text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.errors import TokenizerError
from wkv.inference.model import Model

WORDS = """\
The state of a recurrent network has a fixed size. What it has read lies in it as a long walk lies
in the legs of a walker: not mile by mile, but as strength and as tiredness. A river that has run
through a hundred valleys is no longer than the bed in which it runs, and whoever asks it where it
has been must taste the water. So the next word costs what the first one cost, whether the story
began an hour or a year ago.

On the hill above the harbour stood a house with 27 windows, and in 19 of them a lamp was lit. The
keeper counted them every evening, wrote the number into a book, and never once asked who had lit
the others.

"""

STRIDE = 37
"""Distance in tokens between the start positions of two rows of a batch."""


@dataclass(frozen=True)
class Text:
    """A cyclic sequence of token ids.

    Attributes:
        ids: token ids, (n,) int64.
        what: a description of the text.
    """

    ids: Tensor
    what: str

    def rows(self, count: int, tokens: int, start: int = 0) -> Tensor:
        """Return ids (count, tokens) from a position on; each row starts at another position."""
        positions = start + STRIDE * torch.arange(count)[:, None] + torch.arange(tokens)
        return self.ids[positions % len(self.ids)]


def text_for(model: Model) -> Text:
    """Return English text for the model's tokenizer, or random ids if it has none."""
    try:
        ids = model.tokenizer.encode(WORDS)
    except TokenizerError:
        generator = torch.Generator().manual_seed(0)
        random_ids = torch.randint(model.config.vocab_size, (256,), generator=generator)
        return Text(random_ids, "random ids, because the model has no tokenizer")
    return Text(torch.tensor(ids), "English")
