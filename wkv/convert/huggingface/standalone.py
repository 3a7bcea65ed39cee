"""The model code of an exported directory: one file that only needs torch and transformers.

It is the wkv.hf module of the generation in which every import from wkv is replaced by the source
of the imported module. An exported model therefore runs the same code as wkv.
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


@dataclass(frozen=True)
class Module:
    """A parsed module of wkv.

    Attributes:
        name: dotted name, such as "wkv.ops.wkv7".
        docstring: the module docstring.
        imports: imports from outside wkv as pairs: ("torch", "Tensor"), ("math", None).
        needs: the modules of wkv that it imports from.
        body: the source without docstring and imports.
        defined: the top-level names that it defines.
    """

    name: str
    docstring: str
    imports: tuple[tuple[str, str | None], ...]
    needs: tuple[str, ...]
    body: str
    defined: frozenset[str]


def standalone_source(name: str) -> str:
    """Return the source of a module of wkv.hf without imports from wkv; it is deterministic.

    Args:
        name: such as "modeling_rwkv7"; the file should have this name, with the suffix .py.

    Raises:
        FileNotFoundError: if the module does not exist.
        ValueError: if the module imports from wkv in a way that cannot be replaced.
    """
    modules = _with_dependencies(f"wkv.hf.{name}", {})
    *needed, main = modules.values()
    bodies, taken = [], set(main.defined)
    for module in needed:
        text = _renamed(module, taken)
        taken |= module.defined
        bodies.append(f"# From {module.name}.\n\n\n{text}")
    bodies.append(main.body)
    imports = _import_lines({one for module in modules.values() for one in module.imports})
    note = "This file is self-contained: it only needs torch and transformers."
    docstring = f'"""{main.docstring.rstrip()}\n\n{note}\n"""'
    return "\n\n".join([docstring, imports]) + "\n\n\n" + "\n\n\n".join(bodies) + "\n"


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
    body = "\n".join(line for line in lines if line is not None).strip()
    docstring = ast.get_docstring(tree) or name
    defined = frozenset(_defined(tree))
    return Module(name, docstring, tuple(imports), tuple(needs), body, defined)


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
    groups: list[list[str]] = [[], []]
    for source in sorted({source for source, what in imports if what is None}):
        groups[_is_foreign(source)].append(f"import {source}")
    for source in sorted({source for source, what in imports if what is not None}):
        names = sorted(what for origin, what in imports if origin == source and what is not None)
        line = f"from {source} import {', '.join(names)}"
        if len(line) > WIDTH:
            listed = textwrap.indent(",\n".join(names), "    ")
            line = f"from {source} import (\n{listed},\n)"
        groups[_is_foreign(source)].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)


def _is_foreign(source: str) -> bool:
    """Return whether a module is outside the standard library."""
    return source.split(".")[0].split(" ")[0] not in sys.stdlib_module_names
