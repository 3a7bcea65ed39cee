"""Run the commands of transformers with RWKV models: `python -m wkv.hf.launcher serve MODEL`.

`transformers serve` looks up the class of a model by its name in the package transformers only, so
registering it with the Auto classes is not enough. The classes are added to the package first.
"""

import importlib
import sys

from wkv.errors import MissingExtraError
from wkv.hf import CLASSES


def add_architectures() -> None:
    """Add our classes to transformers, as `transformers.RWKV7ForCausalLM` and so on.

    The package replaces its entry in sys.modules while it is imported. Its commands use that entry,
    so the classes are added there.
    """
    library = sys.modules["transformers"]
    for _, _, language_model in CLASSES:
        setattr(library, language_model.__name__, language_model)


def main() -> None:
    """Run a command of transformers with the command line arguments of this process.

    Raises:
        MissingExtraError: if a dependency of the commands is not installed.
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
