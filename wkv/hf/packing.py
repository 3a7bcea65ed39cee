"""Several documents in one row: find their starts, and arrange each document in a row of its own.

Training programs pack short documents into one row to avoid padding, and describe the row by
`position_ids` that begin again at 0, by `seq_idx`, by cumulative lengths, or by an attention mask
that numbers the documents. A state must not continue from one document into the next.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.hf.parts import previous_real

LENGTHS = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens")
"""Arguments with the cumulative lengths of documents, counted over all rows: (documents + 1,)."""

PACKED = frozenset({"position_ids", "seq_idx", *LENGTHS})
"""Arguments that give the starts of documents."""


def document_starts(
    kwargs: dict[str, Any], attention_mask: Tensor | None, batch: int, tokens: int
) -> Tensor | None:
    """Remove the arguments that describe documents, and return where documents start.

    Args:
        kwargs: the arguments of a forward pass; those in PACKED are removed.
        attention_mask: None or (B, T or more).
        batch, tokens: B and T.

    Returns:
        (B, T) bool, True at the first token of every document but the first one of each row, or
        None if every row is one document.
    """
    given = {name: kwargs.pop(name, None) for name in PACKED}
    given = {name: value for name, value in given.items() if value is not None}
    for name in [name for name in given if name not in LENGTHS]:
        given[name] = _checked(name, given[name], batch, tokens)
    is_traced = torch.compiler.is_compiling()
    if tokens < 2 or (not given and (attention_mask is None or is_traced)):
        return None
    return _find_starts(given, attention_mask, batch, tokens)


def _checked(name: str, x: Tensor, batch: int, tokens: int) -> Tensor:
    """Return numbers of tokens with two axes.

    Raises:
        ValueError: if the shape is another one; ignoring them could join documents.
    """
    rows = x[None] if x.dim() == 1 else x
    if rows.dim() != 2 or len(rows) not in (1, batch) or rows.shape[1] < tokens:
        found = tuple(x.shape)
        raise ValueError(f"{name} is {found}, expected ({batch}, {tokens}) or (1, {tokens})")
    return rows


@torch.compiler.disable
def _find_starts(
    given: dict[str, Tensor], attention_mask: Tensor | None, batch: int, tokens: int
) -> Tensor | None:
    """Compare each real token with the real token before it."""
    mask = _last_columns(attention_mask, batch, tokens)
    known = [x for x in (mask, *given.values()) if x is not None]
    if not known:
        return None
    device = known[0].device
    real = torch.ones(batch, tokens, dtype=torch.bool, device=device) if mask is None else mask != 0
    previous = previous_real(real)[:, :-1]

    def before(x: Tensor) -> Tensor:
        return F.pad(x, (1, 0)).gather(1, previous)

    starts = torch.zeros_like(real)
    positions = _last_columns(given.get("position_ids"), batch, tokens)
    if positions is not None:
        positions = positions.to(device)
        starts |= positions <= before(positions)
    for numbers in (mask, _last_columns(given.get("seq_idx"), batch, tokens)):
        if numbers is not None:
            numbers = numbers.to(device)
            starts |= numbers != before(numbers)
    starts &= real & (previous > 0)
    for ends in (given[name].to(device) for name in LENGTHS if name in given):
        inside = ends[(ends > 0) & (ends < batch * tokens)].long()
        starts.view(-1)[inside] = True
    starts[:, 0] = False
    return starts if bool(starts.any()) else None


def _last_columns(x: Tensor | None, batch: int, tokens: int) -> Tensor | None:
    """Return the last T columns of a tensor (B or 1, T or more), or None for other shapes."""
    if x is None or x.dim() != 2 or len(x) not in (1, batch) or x.shape[1] < tokens:
        return None
    return x[:, -tokens:].expand(batch, tokens)


class Documents:
    """Documents in batches: in each batch, every document has a row.

    The lengths of the documents of a batch differ by less than a factor of 2, so more than half of
    its tokens are real.

    Attributes:
        places: one tensor (documents, length) int64 per batch: the index of each token in the
            flattened rows, and -1 for padding at the end.
    """

    def __init__(self, starts: Tensor) -> None:
        """Arrange the documents that `document_starts` found."""
        self._shape = starts.shape
        marks = starts.clone()
        marks[:, 0] = True
        first = marks.flatten().nonzero().flatten()
        lengths = torch.diff(first, append=first.new_tensor([marks.numel()]))
        sizes = [(length - 1).bit_length() for length in lengths.tolist()]
        self.places = []
        for size in sorted(set(sizes)):
            chosen = torch.tensor([one == size for one in sizes], device=first.device)
            begin, length = first[chosen, None], lengths[chosen, None]
            step = torch.arange(int(length.max()), device=first.device)
            self.places.append(torch.where(step < length, begin + step, -1))

    def rows_of(self, x: Tensor, places: Tensor) -> Tensor:
        """Return x (B, T, ...) of the tokens at `places`; that of padding is arbitrary."""
        return x.flatten(0, 1)[places.clamp(min=0).to(x.device)]

    def masks(self, attention_mask: Tensor | None, places: Tensor) -> Tensor:
        """Return the attention mask of a batch, int64."""
        real = places >= 0
        if attention_mask is None:
            return real.long()
        mask = attention_mask[:, -self._shape[1] :]
        return (real.to(mask.device) & (self.rows_of(mask, places) != 0)).long()

    def joined(self, batches: list[Tensor]) -> Tensor:
        """Return (B, T, ...) from one tensor (documents, length, ...) per batch."""
        pairs = list(zip(batches, self.places, strict=True))
        found = torch.cat([x[(places >= 0).to(x.device)] for x, places in pairs])
        order = torch.cat([places[places >= 0] for places in self.places]).argsort()
        return found[order.to(found.device)].view(*self._shape, *found.shape[1:])
