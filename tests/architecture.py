"""Reads the package's modules and says what in them breaks the rules of `tests.test_architecture`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Layer", "Module", "Rules", "core_faults", "import_faults", "modules_of", "size_faults"]

PACKAGE = "roomwire"


@dataclass(frozen=True, slots=True)
class Layer:
    """What the modules of one layer may import of the package.

    Attributes:
        may: the layers, its own included where it has more than one module.
        lazily: further ones, inside a function or under TYPE_CHECKING only.
    """

    may: frozenset[str]
    lazily: frozenset[str] = frozenset()

    @classmethod
    def of(cls, may: str, lazily: str = "") -> Layer:
        """From names separated by blanks."""
        return cls(frozenset(may.split()), frozenset(lazily.split()))


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules as data; `tests.test_architecture.RULES` is the package's.

    Attributes:
        layers: by name. A module belongs to the longest name that is it or a parent of it.
        drivers: other distributions' packages that only some of our modules may import.
        core_may: what ``core`` may import from outside the package.
        core_never: names of built-in functions that ``core`` does not call.
    """

    layers: Mapping[str, Layer]
    drivers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    core_may: frozenset[str] = frozenset()
    core_never: frozenset[str] = frozenset()

    def layer_of(self, module: str) -> str | None:
        """The layer of a module, by its full name; None where no rule covers it."""
        parts = module.split(".")[1:]
        for length in range(len(parts), 0, -1):
            if (name := ".".join(parts[:length])) in self.layers:
                return name
        # The package's own __init__ is a layer too, but no parent of the others.
        return "" if not parts and "" in self.layers else None


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the package: its full name, its source, and whether it is an ``__init__``."""

    name: str
    source: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))


def modules_of(root: Path) -> list[Module]:
    """Every module under `root`; templates that are copied out are nobody's modules."""
    modules = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if "templates" in parts:
            continue
        is_package = parts[-1] == "__init__"
        modules.append(Module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package))
    return modules


def _imports(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import, and whether it is lazy."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, lazy = stack.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, lazy
        guarded = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        stack.extend((child, lazy or guarded or function) for child in ast.iter_child_nodes(node))


def _targets(module: Module, node: ast.Import | ast.ImportFrom, names: frozenset[str]) -> list[str]:
    """The full names of the modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        kept = len(parts) - node.level + (1 if module.is_package else 0)
        base = ".".join([*parts[:kept], *([base] if base else [])])
    # ``from package import module`` names the module, not the package.
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in names else base for alias in node.names]


def import_faults(rules: Rules, modules: list[Module]) -> list[str]:
    """Imports that cross a border, and modules that no rule covers."""
    faults = []
    names = frozenset(module.name for module in modules)
    for module in modules:
        layer = rules.layer_of(module.name)
        if layer is None:
            faults.append(f"{module.name}: no layer covers it")
            continue
        for node, lazy in _imports(module.tree):
            for target in _targets(module, node, names):
                fault = _import_fault(rules, module.name, layer, target, lazy)
                if fault:
                    faults.append(f"{module.name}:{node.lineno}: {fault}")
    return faults


def _import_fault(rules: Rules, module: str, layer: str, target: str, lazy: bool) -> str | None:
    first = target.partition(".")[0]
    if first == PACKAGE:
        to = rules.layer_of(target)
        rule = rules.layers[layer]
        allowed = rule.may | rule.lazily if lazy else rule.may
        if to not in allowed:
            return f"{layer or PACKAGE} may not import {target}" + (" here" if to in rule.lazily else "")
    elif first in rules.drivers and not any(
        module == owner or module.startswith(owner + ".") for owner in rules.drivers[first]
    ):
        return f"{first} is imported in {', '.join(sorted(rules.drivers[first]))} alone"
    return None


def core_faults(rules: Rules, modules: list[Module]) -> list[str]:
    """What makes a module of ``core`` more than a function of its inputs."""
    faults = []
    for module in modules:
        if rules.layer_of(module.name) != "core":
            continue
        for node in ast.walk(module.tree):
            fault = _core_fault(rules, node)
            if fault:
                faults.append(f"{module.name}:{getattr(node, 'lineno', 0)}: {fault}")
    return faults


def _core_fault(rules: Rules, node: ast.AST) -> str | None:
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            return "asynchronous code in the core"
        case ast.comprehension(is_async=1):
            return "asynchronous code in the core"
        case ast.Import(names=names):
            foreign = [alias.name for alias in names if not _allowed(rules, alias.name)]
        case ast.ImportFrom(module=str(base), level=0, names=names):
            # ``from urllib import parse`` is ``urllib.parse``.
            foreign = [] if all(_allowed(rules, f"{base}.{alias.name}") for alias in names) else [base]
        case ast.Call(func=ast.Name(id=name)) if name in rules.core_never:
            return f"{name}() in the core"
        case _:
            return None
    return f"the core does not import {', '.join(foreign)}" if foreign else None


def _allowed(rules: Rules, name: str) -> bool:
    parts = name.split(".")
    return parts[0] == PACKAGE or any(".".join(parts[:n]) in rules.core_may for n in range(1, len(parts) + 1))


def size_faults(module: Module, max_module: int, max_function: int) -> list[str]:
    """Modules and functions that have grown past their bounds, in lines; docstrings of functions do not count."""
    faults = []
    lines = len(module.source.splitlines())
    if lines > max_module:
        faults.append(f"{module.name}: {lines} lines, at most {max_module}")
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
        if length > max_function:
            faults.append(f"{module.name}:{node.lineno}: {node.name} has {length} lines, at most {max_function}")
    return faults
