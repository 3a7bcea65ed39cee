"""Upload of a directory to the Hugging Face hub."""

from pathlib import Path

from wkv.errors import CheckpointError, InputError


def check_name(repo: str) -> None:
    """Raise an InputError unless `repo` is a valid repository name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(
            f"{repo!r} is not a valid repository name; use one such as you/name"
        ) from error


def upload(folder: Path, repo: str) -> str:
    """Upload a directory as a model in one commit, and return the URL of its page.

    `huggingface_hub` determines the account, the mirror (HF_ENDPOINT) and the proxies.

    Raises:
        CheckpointError: if the hub rejects the upload or cannot be reached; the directory remains.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"Add {folder.name}, made by wkv"
        )
    except Exception as error:  # the library does not wrap the errors of its HTTP client
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{folder} could not be uploaded to {repo} ({reason}); log in with `hf auth login`, "
            "check the name and the network, then try again; the directory is still there"
        ) from error
    return str(url)
