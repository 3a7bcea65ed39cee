"""Tokenizer files of a Hugging Face directory, for `AutoTokenizer` without code from wkv.

`wkv.tokenizers.tokenizer_json` describes the contents of tokenizer.json and the names of the
special tokens.
"""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from wkv.errors import TokenizerError
from wkv.tokenizers.pile import END_OF_TEXT as PILE_END_OF_TEXT
from wkv.tokenizers.pile import PADDING as PILE_PADDING
from wkv.tokenizers.tokenizer_json import (
    END_OF_TEXT,
    TOKENIZER_FILE,
    padding_id,
    read_tokenizer_json,
    special_names,
    special_token,
    world_vocabulary,
    write_tokenizer_json,
)
from wkv.tokenizers.world import (
    VOCABULARY_FILE,
    WORLD_VOCAB_SIZE,
    official_vocabulary,
    read_vocabulary,
    write_vocabulary,
)

CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"

NO_LIMIT = int(1e30)
"""The value with which transformers means "no length limit"; recurrent models have none."""

MARK = r"\{%- (end)?generation -%\}"
"""Pattern of the tags around a reply. All tags next to them remove whitespace, as these do."""

START_OF_TEXT = "{{- bos_token -}}\n"
"""First line of the chat template of models whose chats start with id 0."""


def write_tokenizer(
    folder: Path,
    vocabulary: Mapping[int, bytes] | Path | None = None,
    *,
    vocab_size: int = WORLD_VOCAB_SIZE,
    chat_template: str | None = None,
    starts_with_end_of_text: bool = False,
) -> None:
    """Write tokenizer.json, its configuration, the chat template and the vocabulary file.

    Args:
        folder: the folder to write to; created if it is missing.
        vocabulary: id to bytes, or a file in World format; None: the official one.
        vocab_size: number of rows of the model's embedding.
        chat_template: Jinja text; None: the World template; "": no template.
        starts_with_end_of_text: whether chats start with id 0, as in wkv for generation 7.

    Raises:
        TokenizerError: if the vocabulary cannot be read, or has more ids than the model.
    """
    if vocabulary is None:
        vocabulary = official_vocabulary()
    entries = read_vocabulary(vocabulary) if isinstance(vocabulary, Path) else dict(vocabulary)
    names = special_names(entries, vocab_size)  # before writing anything, because it can fail
    if chat_template is None:
        chat_template = chat_template_text("world", with_marks=True)
    if chat_template and starts_with_end_of_text:
        chat_template = START_OF_TEXT + chat_template
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(entries, folder / VOCABULARY_FILE)
    write_tokenizer_json(folder, entries, names)
    added = {str(token): special_token(name) for token, name in names.items()}
    padding = names[padding_id(entries, vocab_size)]
    _write_configuration(folder, END_OF_TEXT, padding, added_tokens_decoder=added)
    _write_template(folder, chat_template)


def write_pile_tokenizer(
    folder: Path, tokenizer_json: Path, *, chat_template: str | None = None
) -> None:
    """Copy the 20B tokenizer of Pile and Raven models, and write its configuration.

    Args:
        folder: the folder to write to; created if it is missing.
        tokenizer_json: the file, such as 20B_tokenizer.json.
        chat_template: Jinja text; None: no template, because Pile models cannot chat. The template
            for Raven is `chat_template_text("raven")`.

    Raises:
        TokenizerError: if the file has no `<|endoftext|>`.
    """
    try:
        content = tokenizer_json.read_bytes()
        added = [token["content"] for token in json.loads(content)["added_tokens"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TokenizerError(
            f"{tokenizer_json}: not a valid tokenizer.json ({error!r}); use 20B_tokenizer.json"
        ) from error
    if PILE_END_OF_TEXT not in added:
        raise TokenizerError(
            f"{tokenizer_json}: {PILE_END_OF_TEXT} is not among its special tokens; use the 20B "
            "tokenizer of Pile and Raven models"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TOKENIZER_FILE).write_bytes(content)
    padding = PILE_PADDING if PILE_PADDING in added else PILE_END_OF_TEXT
    _write_configuration(folder, PILE_END_OF_TEXT, padding)
    _write_template(folder, chat_template or "")


def read_tokenizer(folder: Path) -> dict[int, bytes]:
    """Return the vocabulary (id to bytes) of a tokenizer.json that `write_tokenizer` wrote.

    Raises:
        TokenizerError: if the file is missing, or its algorithm is not longest match.
    """
    path = folder / TOKENIZER_FILE
    world = world_vocabulary(read_tokenizer_json(path))
    if world is None:
        raise TokenizerError(
            f"{path}: this tokenizer is not a longest-match tokenizer with a World vocabulary; "
            "other tokenizers cannot be converted to a vocabulary file"
        )
    return world.entries


def chat_template_text(family: str, *, with_marks: bool = False) -> str:
    """Return the Jinja chat template named "world" (User, Assistant) or "raven" (Bob, Alice).

    Args:
        family: the name.
        with_marks: whether replies are marked by `{% generation %}`, with which transformers finds
            the tokens to train on. @huggingface/jinja accepts the marks too; plain Jinja does not,
            which llama-cpp-python uses.

    Raises:
        TokenizerError: for another name.
    """
    files = {"world": "chat_template.jinja", "raven": "chat_template_raven.jinja"}
    if family not in files:
        raise TokenizerError(f"no chat template {family!r}; expected one of {', '.join(files)}")
    text = (resources.files("wkv.prompting") / files[family]).read_text(encoding="utf-8")
    return text if with_marks else re.sub(MARK, "", text)


def _write_configuration(folder: Path, end_of_text: str, padding: str, **more: Any) -> None:
    """Write tokenizer_config.json; one token is both BOS and EOS, another one is for padding."""
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # both transformers 4 and 5 know this name
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "pad_token": padding,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": NO_LIMIT,
        **more,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8", newline="\n")


def _write_template(folder: Path, template: str) -> None:
    """Write the chat template, or remove an existing one if `template` is empty."""
    path = folder / TEMPLATE_FILE
    if template:
        path.write_text(template, encoding="utf-8", newline="\n")
    else:
        path.unlink(missing_ok=True)
