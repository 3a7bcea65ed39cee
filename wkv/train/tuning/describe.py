"""Describe a fine-tuning run in lines of text: model, data, one example with its mask, memory."""

from wkv.train.data import END_OF_TEXT
from wkv.train.examples.dataset import Dataset
from wkv.train.examples.encode import Document
from wkv.train.tuning.memory import free_bytes
from wkv.train.tuning.options import MEASURED_WIDTH, TuningOptions
from wkv.train.tuning.session import Session

MAX_SHOWN = 60
"""Number of tokens of the example that are shown at each end."""

BYTES_PER_TRAINED = 16
"""A trained number in float32, its gradient, and two averages of the optimizer."""


def model_line(session: Session) -> str:
    """Describe the model and what is trained."""
    config, options = session.model.config, session.options
    total = session.description.n_params
    trained = sum(one.parameter.numel() for one in session.tuned.trained)
    what = {"state": "the initial state", "full": "all tensors"}.get(
        options.method,
        f"{options.method} rank {options.rank} on {len(session.tuned.changes)} matrices",
    )
    if options.freeze_layers:
        what += f"; the first {options.freeze_layers} layers are frozen"
    dtype = session.strategy if options.base_dtype == "auto" else options.base_dtype
    return (
        f"model   RWKV-{config.generation} L{config.n_layer} D{config.n_embd}, "
        f"{count(total)} weights in {dtype}; trains {count(trained)} numbers "
        f"({100 * trained / total:.1f} %): {what}"
    )


def data_line(data: Dataset, options: TuningOptions) -> str:
    """Describe a data set, and what was left out."""
    counts = data.counts
    left_out = [
        f"{number} {reason}"
        for number, reason in (
            (counts.repeated, "repeated"),
            (counts.too_long, "longer than --context"),
            (counts.shared, "with a held-out prompt"),
        )
        if number
    ]
    used = counts.found if data.prose is not None else len(data.training)
    share = 100 * counts.learned / max(1, counts.tokens)
    text = f"data    {data.name}: {data.form}; {used:,} of {counts.found:,} documents"
    if left_out:
        text += f" ({', '.join(left_out)})"
    text += f"; {count(counts.tokens)} tokens, {share:.0f} % learned; {len(data.held_out)} held out"
    if counts.joined:
        text += f"; prompts that are encoded otherwise at use: {counts.joined}"
    if data.prose is not None and data.context < options.context:
        text += f"; windows of {data.context} tokens, because the text is short"
    return text


def example_lines(session: Session) -> list[str]:
    """Show the first document: «read» without loss, [learned] with it, ids of end-of-text."""
    row = session.task.rows.row(0)
    document = Document(list(row.ids), list(row.weights))
    spans: list[tuple[bool, list[int]]] = []
    for token, weight in zip(document.ids, document.weights, strict=True):
        learned = weight > 0
        if not spans or spans[-1][0] != learned:
            spans.append((learned, []))
        spans[-1][1].append(token)
    parts = [_shown(session, learned, ids) for learned, ids in spans]
    text = "".join(parts[:6]) + (" …" if len(parts) > 6 else "")
    return [f"example {text}   «read» [learned]"]


def _shown(session: Session, learned: bool, ids: list[int]) -> str:
    """Show some ids as text, on one line."""
    decode = session.model.tokenizer.decode
    begin = "0 " if ids[0] == END_OF_TEXT else ""
    end = " 0" if len(ids) > 1 and ids[-1] == END_OF_TEXT else ""
    if len(ids) > 2 * MAX_SHOWN:
        text = decode(ids[:MAX_SHOWN]) + " … " + decode(ids[-MAX_SHOWN:])
    else:
        text = decode(ids)
    text = begin + text.replace("\n", "\\n") + end
    return f"[{text}]" if learned else f"«{text}»"


def memory_line(session: Session, seconds_per_token: float, peak: int | None) -> str:
    """Describe the expected memory and time."""
    settings, plan = session.settings, session.memory
    trained = sum(one.parameter.numel() for one in session.tuned.trained)
    expected = BYTES_PER_TRAINED * trained + plan.activation_bytes
    expected += sum(tensor.nbytes for tensor in session.network.parameters())
    free = free_bytes(session.model.device)
    text = f"memory  {gib(max(expected, peak or 0))} expected"
    text += f", {gib(free)} free" if free is not None else ""
    speed = settings.processes / seconds_per_token
    minutes = settings.minutes
    if settings.steps is not None:
        tokens = settings.steps * settings.rows * session.data.mean_tokens
        minutes = tokens / speed / 60
    text += f"; {minutes:.1f} min expected at {speed:,.0f} tokens/s"
    rows = f"{settings.rows} rows a step"
    if plan.micro_rows * settings.processes < settings.rows:
        rows += f", {plan.micro_rows} at a time"
    if plan.checkpoint_blocks:
        rows += ", blocks are computed again in the backward pass"
    if settings.steps is not None:
        rows = f"{settings.steps} steps of {rows}"
    if session.model.config.n_embd > MEASURED_WIDTH and session.options.learning_rate is None:
        rows += f"; the learning rate is extrapolated from width {MEASURED_WIDTH}"
    return f"{text}; {rows}"


def count(number: float) -> str:
    """Return a number with a unit, such as "3.8 M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def gib(size: float) -> str:
    """Return a size in GiB."""
    return f"{size / 2**30:.1f} GiB"
