"""Triton's interpreter, which runs kernels on a CPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def interpreted() -> Iterator[Any]:
    """Let kernels run in Triton's interpreter.

    Triton decides when a kernel is defined. Its own library and our kernels may have been imported
    before, so their functions are replaced. The interpreter replaces Triton's language at each call
    of a function, which takes half of the time; once is enough.
    """
    import triton
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    changes = pytest.MonkeyPatch()
    changes.setattr(triton.knobs.runtime, "interpret", True)
    language, standard = triton.language, triton.language.standard
    scopes = [interpreter._patch_lang(function) for function in (standard.sum.fn, _uses(language))]
    changes.setattr(interpreter, "_patch_lang", lambda function: interpreter._LangPatchScope())
    ours = [module for name, module in sys.modules.items() if name.startswith("wkv.gpu")]
    for module in (language, standard, *ours):
        for name, function in list(vars(module).items()):
            if isinstance(function, JITFunction):
                changes.setattr(module, name, interpreter.InterpretedFunction(function.fn))
    try:
        yield triton
    finally:
        changes.undo()
        for scope in reversed(scopes):
            scope.restore()


def _uses(language: Any) -> Any:
    """Return a function whose module has Triton's language as a global name."""
    names = {"language": language}
    exec("def function(): ...", names)
    return names["function"]
