"""The code uses the field's standard terms, in sentences that a newcomer understands.

Each private word has a standard term, which the message names. Add a word here when a review finds
one that had to be read twice.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import wkv

PACKAGE = Path(wkv.__file__).parent
ROOT = PACKAGE.parent

BEGINNINGS = re.compile(r"(What|How|Where|Why|Who)\b")
"""A docstring that begins so is not a complete statement."""

TERMS = {
    r"told": "reported, stated, passed, rendered",
    r"chances?": "logprobs, TokenLogprob",
    r"likeliest": "most probable, top_logprobs",
    r"borders?": "boundary",
    r"patience": "timeout",
    r"quantis\w*|initialis\w*|normalis\w*|recognis\w*|optimis\w*|serialis\w*": "American spelling",
    r"licen[c]e\w*|behaviour\w*|neighbour\w*|colour\w*": "American spelling",
    r"(?<!there )is no (?!longer|more)\w+": "is not a ...",
    r"(?<!there )are no (?!longer|more)\w+": "are not ...",
}
"""Words that do not occur in docstrings and comments, and the terms that replace them."""

ALLOWED = {"--licence"}
"""An alias of a command line option."""


def _sources():
    return sorted(PACKAGE.rglob("*.py"))


def _docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def _comments(path):
    with io.StringIO(path.read_text(encoding="utf-8")) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def test_docstrings_begin_with_a_statement():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in _sources()
        for line, text in _docstrings(path)
        if BEGINNINGS.match(text)
    ]
    assert wrong == []


def test_standard_terms_are_used():
    wrong = []
    for path in _sources():
        for line, text in (*_docstrings(path), *_comments(path)):
            for word, term in TERMS.items():
                found = re.search(rf"\b(?:{word})\b", text, re.IGNORECASE)
                if found and found[0] not in ALLOWED:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {found[0]!r}: write {term}")
    assert wrong == []
