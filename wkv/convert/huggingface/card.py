"""The README.md of a directory: what the model is, where it comes from, how to use it."""

from dataclasses import dataclass

from wkv.convert.huggingface.target import UNKNOWN, Target
from wkv.models import Config
from wkv.version import TESTED_TRANSFORMERS, __version__


@dataclass(frozen=True)
class Provenance:
    """Where a directory comes from.

    Attributes:
        file: name of the source.
        sha256: of the source; None for a directory.
        license: of the weights, as the hub names it.
        repo: of the source on the hub, if it is known.
        dropped: tensors that no model uses and that were left out.
    """

    file: str
    sha256: str | None
    license: str = UNKNOWN
    repo: str | None = None
    dropped: tuple[str, ...] = ()


def card(config: Config, target: Target, source: Provenance, context: int, dtype: str) -> str:
    """The text of the card, with the hub's header."""
    header = ["---", f"license: {source.license}", "library_name: transformers"]
    header += ["pipeline_tag: text-generation", "tags:", "- rwkv", f"- rwkv{config.generation[0]}"]
    header += [f"base_model: {source.repo}"] if source.repo else []
    heads = f"{config.n_head} heads of {config.head_size}" if config.n_head else "no heads"
    facts = [
        f"- RWKV-{config.generation}: {config.n_layer} layers of {config.n_embd} channels, {heads}",
        f"- vocabulary of {config.vocab_size} ids, trained on {context} tokens at a time",
        f"- {dtype}, the names of the `{target.layout}` layout, class `{target.stem}ForCausalLM`",
        f"- license of the weights: {source.license}"
        + (" (the source states none; ask its makers)" if source.license == UNKNOWN else ""),
    ]
    made = f"Made by wkv {__version__} from `{source.file}`"
    made += f" (SHA256 {source.sha256})" if source.sha256 else ""
    made += f" of [{source.repo}](https://huggingface.co/{source.repo})" if source.repo else ""
    made += "; the logits were compared with those of the source."
    if source.dropped:
        made += f" Left out, since no model uses them: {', '.join(source.dropped)}."
    return "\n".join(
        [*header, "---", "", f"# {source.file}", "", *facts, "", made, "", *_usage(target), ""]
    )


def _usage(target: Target) -> list[str]:
    """How the directory is used."""
    if target.module is None:
        return [
            "wkv reads this directory (`wkv chat DIR`); transformers will with its own class for "
            "this layout."
        ]
    oldest, newest = TESTED_TRANSFORMERS
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("DIR", trust_remote_code=True)',
        'tokenizer = AutoTokenizer.from_pretrained("DIR", trust_remote_code=False)',
        'inputs = tokenizer("User: Hello\\n\\nAssistant:", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))",
        "```",
        "",
        "The code beside the weights needs torch and transformers, no compiler and no GPU. It was "
        f"tested with transformers {oldest} to {newest}. The tokenizer needs none of it. With "
        "`import wkv.hf` the same classes are used without `trust_remote_code`. If a later "
        "transformers refuses the code, a newer wkv renews it: `wkv convert DIR NEW --to hf`.",
    ]
