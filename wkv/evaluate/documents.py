"""Documents to measure on: a file of JSON lines, {"text": ...} each; by default LAMBADA's own.

The published figures of RWKV are of OpenAI's 5,153 documents, `lambada_test.jsonl`. The hub keeps
that very file; what comes is compared with its checksum.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from wkv.errors import InputError

REPO = "EleutherAI/lambada_openai"
FILE = "data/lambada_test.jsonl"
REVISION = "900124bf3b8235c6daf21033af9948b3f07346c4"
SHA256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
URL = f"https://huggingface.co/datasets/{REPO}/resolve/{REVISION}/{FILE}"


@dataclass(frozen=True)
class Documents:
    """Texts in the order of their file.

    Attributes:
        path: the file.
        sha256: of its bytes.
        texts: of each line that is not empty.
    """

    path: Path
    sha256: str
    texts: list[str]


def read_documents(path: Path | None = None) -> Documents:
    """The documents of a file, or (None) of LAMBADA, fetched from the hub if it is not here yet.

    Raises:
        InputError: if the file cannot be had or read, or a line is no JSON object with a text
            of several words; names the line.
    """
    file = _from_the_hub() if path is None else path
    try:
        data = file.read_bytes()
        lines = data.decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{file}: there is no such file; give one with --data FILE") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: the documents cannot be read ({error})") from error
    numbered = enumerate(lines, start=1)
    texts = [_text(line, f"{file}, line {number}") for number, line in numbered if line.strip()]
    if not texts:
        raise InputError(f'{file}: the file is empty; expected lines such as {{"text": "..."}}')
    return Documents(file, hashlib.sha256(data).hexdigest(), texts)


def split(text: str, where: str) -> tuple[str, str]:
    """A text as (src, dst): cut at the last blank, which belongs to dst.

    Raises:
        InputError: if there is no blank; says where.
    """
    src, blank, word = text.rpartition(" ")
    if not blank:
        raise InputError(
            f"{where} is the single word {word[:40]!r}; expected a text whose last word can be "
            "told from what comes before it"
        )
    return src, blank + word


def _text(line: str, where: str) -> str:
    """The text of a line."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(
            f'{where}: {line[:40]!r} is no JSON ({error}); expected {{"text": "..."}} in each line'
        ) from error
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise InputError(f'{where}: there is no "text" in it; expected {{"text": "..."}}')
    split(entry["text"], where)
    return str(entry["text"])


def _from_the_hub() -> Path:
    """LAMBADA's file in the cache of `huggingface_hub`; fetched once, 1.8 MB."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(REPO, FILE, revision=REVISION, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its retries are no news; the error at the end is ours
    try:
        file = Path(
            hf_hub_download(REPO, FILE, revision=REVISION, repo_type="dataset", token=False)
        )
    except Exception as error:  # the library passes on the errors of whatever carries its requests
        raise InputError(
            f"the documents of LAMBADA could not be had from the hub ({type(error).__name__}); "
            f"download {URL} by hand and give --data FILE"
        ) from error
    finally:
        logger.setLevel(level)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise InputError(
            f"{file}: the hub's file has the SHA256 {found}, expected {SHA256}; check HF_ENDPOINT, "
            "or give --data FILE"
        )
    return file
