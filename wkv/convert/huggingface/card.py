"""The model card (README.md) of an exported directory: its properties, origin and usage."""

from dataclasses import dataclass

from wkv.convert.huggingface.target import UNKNOWN, Target
from wkv.models import Config
from wkv.version import TESTED_TRANSFORMERS, __version__


@dataclass(frozen=True)
class Provenance:
    """The origin of an exported directory.

    Attributes:
        file: name of the source file.
        sha256: checksum of the source file; None if the source is a directory.
        license: license of the weights, as the hub names it.
        repo: repository of the source on the hub, if it is known.
        dropped: source tensors that were not written because no model uses them.
    """

    file: str
    sha256: str | None
    license: str = UNKNOWN
    repo: str | None = None
    dropped: tuple[str, ...] = ()


def card(config: Config, target: Target, source: Provenance, context: int, dtype: str) -> str:
    """Return the text of the model card, including the header that the hub reads."""
    header = ["---", f"license: {source.license}", "library_name: transformers"]
    header += ["pipeline_tag: text-generation", "tags:", "- rwkv", f"- rwkv{config.generation[0]}"]
    header += [f"base_model: {source.repo}"] if source.repo else []
    heads = f"{config.n_head} heads of {config.head_size}" if config.n_head else "no heads"
    facts = [
        f"- RWKV-{config.generation}: {config.n_layer} layers of {config.n_embd} channels, {heads}",
        f"- vocabulary of {config.vocab_size} ids, trained with a context of {context} tokens",
        f"- {dtype}, the names of the `{target.layout}` layout, class `{target.stem}ForCausalLM`",
        f"- license of the weights: {source.license}"
        + (
            " (the source does not state one; ask its authors)" if source.license == UNKNOWN else ""
        ),
    ]
    made = f"Made by wkv {__version__} from `{source.file}`"
    made += f" (SHA256 {source.sha256})" if source.sha256 else ""
    made += f" of [{source.repo}](https://huggingface.co/{source.repo})" if source.repo else ""
    made += "; the logits were compared with those of the source."
    if source.dropped:
        made += f" Not written, because no model uses them: {', '.join(source.dropped)}."
    return "\n".join(
        [*header, "---", "", f"# {source.file}", "", *facts, "", made, "", *_usage(target), ""]
    )


def _usage(target: Target) -> list[str]:
    """Return the section of the card that describes how to use the directory."""
    if target.code is None:
        return [
            "wkv reads this directory (`wkv chat DIR`). transformers needs a class of its own for "
            "this layout, which it does not have yet."
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
        "The code next to the weights needs torch and transformers, but no compiler and no GPU. It "
        f"was tested with transformers {oldest} to {newest}. The tokenizer does not need it. "
        "After `import wkv.hf` the same classes work without `trust_remote_code`. If a later "
        "version of transformers rejects the code, a newer wkv can update it: "
        "`wkv convert DIR NEW --to hf`.",
    ]
