"""What a model reads while it is measured.

Words, where it has a tokenizer: how many activations are zero depends on what is read.
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
"""Tokens between the places at which two rows of a batch begin."""


@dataclass(frozen=True)
class Text:
    """Ids that go round and round.

    Attributes:
        ids: (n,) int64.
        what: what they are, in words.
    """

    ids: Tensor
    what: str

    def rows(self, count: int, tokens: int, start: int = 0) -> Tensor:
        """(count, tokens) ids from a place on; each row is at another place of the text."""
        places = start + STRIDE * torch.arange(count)[:, None] + torch.arange(tokens)
        return self.ids[places % len(self.ids)]


def text_for(model: Model) -> Text:
    """English for the model's tokenizer; random ids where it has none."""
    try:
        ids = model.tokenizer.encode(WORDS)
    except TokenizerError:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(model.config.vocab_size, (256,), generator=generator)
        return Text(drawn, "random ids, for want of a tokenizer")
    return Text(torch.tensor(ids), "English")
