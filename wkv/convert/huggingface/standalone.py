"""The code of an exported directory: one file for the config class and one for the model.

They are the wkv.hf modules of the generation in which every import from wkv is replaced by the
source of the imported module. An exported model therefore runs the same code as wkv. The config is
in a file of its own, because programs that compute without PyTorch read it too.
"""

import ast
import io
import sys
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
WIDTH = 100

CONFIGURATION, MODELING = "configuration_", "modeling_"
"""Prefixes of the names of the two files, and of the modules of wkv.hf that they are made from."""

VERSION_CHECK = """import transformers

if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(
        f"this model needs transformers 5.0 or newer, {transformers.__version__} is installed: "
        "pip install -U transformers"
    )"""
"""Code at the start of a model file. Older versions lack modules and features that it uses."""


@dataclass(frozen=True)
class Module:
    """A parsed module of wkv.

    Attributes:
        name: dotted name, such as "wkv.ops.wkv7".
        docstring: the module docstring.
        imports: imports from outside wkv as pairs: ("torch", "Tensor"), ("math", None).
        needs: the modules of wkv that it imports from.
        needed_names: the names that it imports from them.
        body: the source without docstring and imports.
        defined: the top-level names that it defines.
    """

    name: str
    docstring: str
    imports: tuple[tuple[str, str | None], ...]
    needs: tuple[str, ...]
    needed_names: frozenset[str]
    body: str
    defined: frozenset[str]


def standalone_files(suffix: str) -> dict[str, str]:
    """Return the names and contents of the files of a generation; they are deterministic.

    Args:
        suffix: the end of the names of its modules in wkv.hf, such as "rwkv7".

    Raises:
        FileNotFoundError: if there is no such module.
        ValueError: if a module imports from wkv in a way that cannot be replaced.
    """
    needs = {CONFIGURATION: "transformers", MODELING: "torch and transformers"}
    return {
        f"{kind}{suffix}.py": _source(kind, suffix, libraries) for kind, libraries in needs.items()
    }


def _source(kind: str, suffix: str, libraries: str) -> str:
    """Return the source of one file, which may import only from `libraries` and a config file."""
    *needed, main = _with_dependencies(f"wkv.hf.{kind}{suffix}", {}).values()
    config_file, from_config = f"{CONFIGURATION}{suffix}", set()
    if kind == MODELING:  # the config classes are not copied, but imported from their own file
        own = _with_dependencies(f"wkv.hf.{config_file}", {}).values()
        classes = {name for module in own if _is_config(module) for name in module.defined}
        needed = [module for module in needed if not _is_config(module)]
        used = {name for module in [*needed, main] for name in module.needed_names}
        from_config = {(f".{config_file}", name) for name in classes & used}
    bodies, taken = [], set(main.defined)
    for module in needed:
        text = _renamed(module, taken)
        taken |= module.defined
        bodies.append(f"# From {module.name}.\n\n\n{text}")
    bodies.append(main.body)
    imports = {one for module in [*needed, main] for one in module.imports} | from_config
    note = f"It needs {libraries}, but not wkv."
    docstring = f'"""{main.docstring.rstrip()}\n\n{note}\n"""'
    check = [VERSION_CHECK] if kind == MODELING else []
    return (
        "\n\n".join([docstring, *check, _import_lines(imports)])
        + "".join(f"\n\n\n{body}" for body in bodies)
        + "\n"
    )


def _is_config(module: Module) -> bool:
    return module.name.startswith(f"wkv.hf.{CONFIGURATION}")


def _with_dependencies(name: str, found: dict[str, Module]) -> dict[str, Module]:
    """Parse a module and its dependencies into `found`, with dependencies first."""
    module = _parse(name)
    for need in module.needs:
        if need not in found:
            _with_dependencies(need, found)
    found[name] = module
    return found


def _parse(name: str) -> Module:
    path = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines: list[str | None] = list(text.splitlines())
    imports: list[tuple[str, str | None]] = []
    needs: list[str] = []
    needed_names: set[str] = set()
    for index, node in enumerate(tree.body):
        is_docstring = index == 0 and isinstance(node, ast.Expr)
        if not (is_docstring or isinstance(node, ast.Import | ast.ImportFrom)):
            continue
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[number] = None
        if isinstance(node, ast.Import):
            imports += [(_alias(alias), None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if source.split(".")[0] != "wkv":
                imports += [(source, _alias(alias)) for alias in node.names]
            elif any(alias.asname for alias in node.names):
                raise ValueError(f"{name} imports from {source} under another name")
            else:
                needs.append(source)
                needed_names |= {alias.name for alias in node.names}
    body = "\n".join(line for line in lines if line is not None).strip()
    docstring = ast.get_docstring(tree) or name
    defined = frozenset(_defined(tree))
    names = frozenset(needed_names)
    return Module(name, docstring, tuple(imports), tuple(needs), names, body, defined)


def _alias(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module defines at its top level."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _renamed(module: Module, taken: set[str]) -> str:
    """Return the body of a module, with a suffix added to names that are already taken."""
    suffix = "_of_" + module.name.rpartition(".")[2]
    clashes = module.defined & taken
    lines = module.body.splitlines(keepends=True)
    before = ""
    places = []
    for token in tokenize.generate_tokens(io.StringIO(module.body).readline):
        if token.type == tokenize.NAME and token.string in clashes and before != ".":
            places.append(token.end)
        before = token.string
    for row, column in reversed(places):
        lines[row - 1] = lines[row - 1][:column] + suffix + lines[row - 1][column:]
    return "".join(lines)


def _import_lines(imports: set[tuple[str, str | None]]) -> str:
    """Return the import statements, with the standard library first."""
    groups: list[list[str]] = [[], [], []]
    for source in sorted({source for source, what in imports if what is None}):
        groups[_group(source)].append(f"import {source}")
    for source in sorted({source for source, what in imports if what is not None}):
        names = sorted(what for origin, what in imports if origin == source and what is not None)
        line = f"from {source} import {', '.join(names)}"
        if len(line) > WIDTH:
            listed = textwrap.indent(",\n".join(names), "    ")
            line = f"from {source} import (\n{listed},\n)"
        groups[_group(source)].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)


def _group(source: str) -> int:
    """Return 0 for the standard library, 1 for installed packages, 2 for files of the directory."""
    if source.startswith("."):
        return 2
    return int(source.split(".")[0].split(" ")[0] not in sys.stdlib_module_names)
