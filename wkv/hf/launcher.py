"""The commands of transformers with RWKV in them: `python -m wkv.hf.launcher serve MODEL`.

`transformers serve` looks the class of a model up by its name in the package transformers itself
and nowhere else, so registering is not enough: the names are put there first.
"""

import importlib
import sys

from wkv.errors import MissingExtraError
from wkv.hf import CLASSES


def add_architectures() -> None:
    """Make `transformers.RWKV7ForCausalLM` and so on our classes.

    The package replaces itself in sys.modules while it is imported; the entry there is what
    its commands see.
    """
    library = sys.modules["transformers"]
    for _, _, language_model in CLASSES:
        setattr(library, language_model.__name__, language_model)


def main() -> None:
    """Run a command of transformers with the arguments of this process.

    Raises:
        MissingExtraError: if what the commands need is not installed.
    """
    add_architectures()
    try:
        commands = importlib.import_module("transformers.cli.transformers")
    except ImportError as error:
        raise MissingExtraError(
            f"the commands of transformers cannot be imported ({error}); for a server: "
            "pip install 'transformers[serving]'"
        ) from error
    commands.main()


if __name__ == "__main__":
    main()
