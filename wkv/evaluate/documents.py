"""Evaluation documents from a file of JSON lines, each {"text": ...}; by default those of LAMBADA.

RWKV's published results use OpenAI's 5,153 documents, `lambada_test.jsonl`. The same file is
downloaded from the hub, and verified by its checksum.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from wkv.errors import InputError
from wkv.files import decode_text

REPO = "EleutherAI/lambada_openai"
FILE = "data/lambada_test.jsonl"
REVISION = "900124bf3b8235c6daf21033af9948b3f07346c4"
SHA256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
URL = f"https://huggingface.co/datasets/{REPO}/resolve/{REVISION}/{FILE}"


@dataclass(frozen=True)
class Documents:
    """The texts of a file, in its order.

    Attributes:
        path: the file.
        sha256: checksum of the file.
        texts: the text of each line that is not empty.
    """

    path: Path
    sha256: str
    texts: list[str]


def read_documents(path: Path | None = None) -> Documents:
    """Read the documents of a file, or of LAMBADA (None), which is downloaded on first use.

    Raises:
        InputError: if the file cannot be downloaded or read, or a line is not a JSON object with
            a text of several words; names the line.
    """
    file = _from_the_hub() if path is None else path
    try:
        data = file.expanduser().read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{file}: there is no such file; name one with --data FILE") from error
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file}: the documents cannot be read ({error})") from error
    numbered = enumerate(decode_text(data, str(file)).split("\n"), start=1)
    texts = [_text(line, f"{file}, line {number}") for number, line in numbered if line.strip()]
    if not texts:
        raise InputError(f'{file}: the file is empty; expected lines such as {{"text": "..."}}')
    return Documents(file, hashlib.sha256(data).hexdigest(), texts)


def split(text: str, where: str) -> tuple[str, str]:
    """Split a text at its last blank into (src, dst); the blank belongs to dst.

    Raises:
        InputError: if there is no blank; the message starts with `where`.
    """
    src, blank, word = text.rpartition(" ")
    if not blank:
        raise InputError(
            f"{where} is the single word {word[:40]!r}; expected a text of several words, whose "
            "last word is to be predicted"
        )
    return src, blank + word


def _text(line: str, where: str) -> str:
    """Return the text of a line.

    Raises:
        InputError: if the line is not valid; the message starts with `where`.
    """
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{where}: {line[:40]!r} is not valid JSON ({error}); expected "
            '{"text": "..."} in each line'
        ) from error
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise InputError(f'{where}: there is no "text" in it; expected {{"text": "..."}}')
    split(entry["text"], where)
    return str(entry["text"])


def _from_the_hub() -> Path:
    """Return LAMBADA's file in the cache of `huggingface_hub`; it is downloaded once (1.8 MB)."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(REPO, FILE, revision=REVISION, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # hide its messages about retries; errors are reported below
    try:
        file = Path(
            hf_hub_download(REPO, FILE, revision=REVISION, repo_type="dataset", token=False)
        )
    except Exception as error:  # the library does not wrap the errors of its HTTP client
        raise InputError(
            f"the documents of LAMBADA could not be downloaded ({type(error).__name__}); "
            f"download {URL} by hand and use --data FILE"
        ) from error
    finally:
        logger.setLevel(level)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise InputError(
            f"{file}: the hub's file has the SHA256 {found}, expected {SHA256}; check HF_ENDPOINT, "
            "or use --data FILE"
        )
    return file
