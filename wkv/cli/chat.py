"""Talk to a model. Lines from a pipe are answered one by one."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wkv.cli.options import add_model, add_sampling, load_model, notice, read_sampling

if TYPE_CHECKING:
    from wkv.chat import Conversation

SUMMARY = "talk to a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv chat`."""
    add_model(parser)
    add_sampling(parser, tell_defaults=False)  # they depend on the model


def run(args: argparse.Namespace) -> int:
    """Answer messages until the input ends."""
    from wkv.chat import Conversation, sampling_for
    from wkv.errors import InputError

    model = load_model(args)
    _ = model.tokenizer  # if there is none, it is said now
    conversation = Conversation(model, read_sampling(args, sampling_for(model)))
    config = model.config
    if sys.stdin.isatty():
        what = "the built-in demo model" if args.model is None else model.path.name
        notice(f"{what}: RWKV-{config.generation}, {config.n_layer} layers of {config.n_embd}")
        notice("Ctrl-C stops an answer, Ctrl-D ends the chat.")
    for message in _messages():
        try:
            _answer(conversation, message)
        except InputError as error:
            notice(f"wkv: {error}")
    return 0


def _messages() -> Iterator[str]:
    """What the user types, or the lines of a pipe; lines that are not UTF-8 are refused."""
    if sys.stdin.isatty():
        yield from _typed()
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            notice(f"wkv: line {number} is not UTF-8 (byte {error.start}); it was passed over")
            continue
        if text:
            yield text


def _typed() -> Iterator[str]:
    """Lines typed at a prompt."""
    import contextlib

    with contextlib.suppress(ImportError):  # editing of the line; Windows has its own
        import readline  # noqa: F401
    while True:
        try:
            text = input("\n> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            notice("\nCtrl-D ends the chat.")
            continue
        if text:
            yield text


def _answer(conversation: "Conversation", message: str) -> None:
    """Print the reply to one message as it comes."""
    reply = conversation.reply(message)
    begun = False
    try:
        for piece in reply:
            shown = piece if begun else piece.lstrip()
            begun = begun or bool(shown)
            print(shown, end="", flush=True)
    except KeyboardInterrupt:
        print(reply.interrupt(), end="")
    print(flush=True)
    conversation.finish(reply)
    if reply.result.finish_reason == "length":
        notice(f"[cut off after {len(reply.result.token_ids)} tokens]")
