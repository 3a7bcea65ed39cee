"""Puts a directory on the Hugging Face hub."""

from pathlib import Path

from wkv.errors import CheckpointError, InputError


def check_name(repo: str) -> None:
    """Raise an InputError unless it is the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(
            f"{repo!r} is no name of a repository; give one such as you/name"
        ) from error


def upload(folder: Path, repo: str) -> str:
    """Upload a directory as a model, in one commit; returns the address of its page.

    The account, the mirror (HF_ENDPOINT) and proxies are those of `huggingface_hub`.

    Raises:
        CheckpointError: if the hub refuses, or cannot be reached; the directory stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"Add {folder.name}, made by wkv"
        )
    except Exception as error:  # the library passes on the errors of whatever carries its requests
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{folder} could not be uploaded to {repo} ({reason}); log in with `hf auth login`, "
            "check the name and the network, then try again: the directory is kept"
        ) from error
    return str(url)
