"""The structure stays simple: public names, layers of imports, sizes of files."""

import ast
import subprocess
import sys
from pathlib import Path

import wkv

PACKAGE = Path(wkv.__file__).parent
MOST_LINES = 500

LAYERS = [
    {"errors", "version"},
    {"files"},
    {"ops", "tokenizers", "hub", "demo", "page"},
    {"models"},
    {"checkpoint"},
    {"adapters"},
    {"native"},
    {"gpu"},
    {"inference"},
    {"prompting"},
    {"constraints", "batching", "convert", "hf"},
    {"compat", "chat", "evaluate", "bench"},
    {"train"},
    {"serve"},
    {"cli"},
]
"""A package imports from itself and from lower layers only. There are no exceptions."""

MOST_PACKAGES = 26
"""Packages and modules at the top level of wkv, without __init__ and __main__."""


def _sources():
    return sorted(PACKAGE.rglob("*.py"))


def _package(module):
    return module.split(".")[1] if "." in module else ""


def _layer(package):
    return next(number for number, packages in enumerate(LAYERS) if package in packages)


def _imported(tree):
    """Names of the modules of wkv that a file imports when it runs (not for type checkers only)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("wkv"):
            if node.module == "wkv":
                yield from (f"wkv.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("wkv."))


def test_imports_only_go_down():
    upward = []
    for path in _sources():
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        package = parts[1]
        if package in ("__init__", "__main__"):
            continue
        for module in _imported(ast.parse(path.read_text())):
            target = _package(module)
            if target != package and _layer(target) >= _layer(package):
                upward.append(f"{'.'.join(parts)} imports {module}")
    assert upward == []


def test_the_top_level_stays_small_and_every_package_has_a_layer():
    names = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    names = {name for name in names if not name.startswith(("_", "."))}
    assert names == set().union(*LAYERS)
    assert len(names) <= MOST_PACKAGES


def test_files_stay_small():
    long = {str(p): n for p in _sources() if (n := len(p.read_text().splitlines())) > MOST_LINES}
    assert long == {}


def test_all_names_exactly_what_can_be_imported():
    assert wkv.__all__ == sorted(wkv.__all__)
    for name in wkv.__all__:
        assert getattr(wkv, name) is not None


def test_importing_wkv_imports_nothing_heavy_and_reads_no_environment():
    code = (
        "import sys, wkv\n"
        "heavy = {'torch', 'numpy', 'rwkv', 'tokenizers', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    readers = [p for p in _sources() if "os.environ" in p.read_text() or "getenv" in p.read_text()]
    # Only commands read it: where models come from (WKV_HUB), and the settings of a server that is
    # started where there is no command line (WKV_SERVE_*).
    assert readers == [PACKAGE / "cli" / "fetching.py", PACKAGE / "cli" / "serve.py"]


def test_oracles_do_not_know_wkv():
    oracles = Path(__file__).parents[1] / "oracles"
    for path in oracles.glob("*.py"):
        assert "wkv" not in {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not list(_imported(ast.parse(path.read_text())))


def test_readme_and_demo_are_in_the_wheel_or_beside_it():
    assert (PACKAGE / "demo/demo-rwkv7.safetensors").stat().st_size < 12e6
    assert (PACKAGE / "demo/demo-rwkv7.vocab.txt").is_file()
    assert (PACKAGE / "demo/MODEL_CARD.md").is_file()
