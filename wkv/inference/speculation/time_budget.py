"""The limit of what drafts may cost if none of them is accepted."""

LOSS = 0.02
"""The largest share of time that may be lost, beside one pass."""


class TimeBudget:
    """An account of time: drafts may be tried only while the loss so far stays below its limit.

        time so far <= (1 + LOSS) * (tokens so far) + 1

    One unit is the time that plain decoding takes for a token. So after n tokens, the speed is at
    least 1 / (1 + LOSS + 1 / n) of plain decoding, whatever is drafted, if the costs are right.

    Attributes:
        left: the time that may still be lost.
    """

    def __init__(self) -> None:
        self.left = 1.0

    def allows(self, extra: float) -> bool:
        """Return whether a pass may take `extra` units longer than one without drafts."""
        return extra <= self.left + LOSS

    def spend(self, extra: float, tokens: int) -> None:
        """Count a pass that took `extra` units longer and gave so many tokens, at least one."""
        self.left += (1 + LOSS) * tokens - (1 + extra)
