"""Speculative decoding: read several drafted tokens in one pass, and keep those that are sampled.

    speculation = speculation_for(model, "auto")
    batch = RunningBatch(model, speculation)     # decodes as without it, in fewer passes

Most of the time of a pass on a CPU is spent on reading the weights from memory, once for all of its
rows. So a pass over the last token and k drafted ones costs less than k + 1 passes. The sampler
then samples a token from the logits of each row, as it always does. A draft is accepted if it is
the sampled token; at the first that is not, the rest of the pass is dropped. So the text is that of
plain decoding, whatever is drafted, if a pass of T rows gives the bits of T passes of one row.

Files: `suffix_automaton` finds drafts in the text, `draft_model` asks a small model, `drafter`
combines them for one sequence. `acceptance` estimates which drafts are accepted, `pass_costs` what
a pass costs, `time_budget` limits the loss, and `choose` decides how many tokens are drafted.
"""

from wkv.inference.speculation.draft_model import DraftModel
from wkv.inference.speculation.drafter import Drafter
from wkv.inference.speculation.speculation import (
    MAX_DRAFT,
    Speculate,
    Speculation,
    speculation_for,
    unsupported_reason,
)

__all__ = [
    "MAX_DRAFT",
    "DraftModel",
    "Drafter",
    "Speculate",
    "Speculation",
    "speculation_for",
    "unsupported_reason",
]
