"""How large is the code, and is it as small as it promised to be? Prints a table; exit code 1 where a budget is broken.

    python scripts/budgets.py [FOLDER]

A line counts unless it is blank, a comment or part of a docstring; a statement over three lines counts three. A
function counts from its ``def`` to its end with what is nested in it, a class likewise; decorators count for neither.
p95 is the nearest rank: the smallest length that 95 % of them do not exceed.
"""

from __future__ import annotations

import ast
import io
import math
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FUNCTION_P95, FUNCTION_MAX = 40, 100
FILE_P95, FILE_MAX = 300, 450
CLASS_MAX = 250
TESTS_PER_LINE = 1.0
FORBIDDEN = frozenset({"util", "utils", "common", "helper", "helpers", "manager", "managers", "base"})
"""As a word of the name of a folder, a file or a class: such a name says nothing of what is inside."""
BROAD = frozenset({"Exception", "BaseException"})
TO_LINTERS = r"noqa(: ?[A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*)?|type: ?ignore(\[[\w, -]+\])?|pragma: ?no cover"
NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)
Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Source:
    """One file, read once. ``code`` are the numbers of the lines that count; ``comments`` the comments by line."""

    path: Path
    tree: ast.Module
    code: frozenset[int]
    comments: dict[int, str]

    def length(self, node: Defined) -> int:
        """Lines that count, from ``def`` or ``class`` to the end."""
        return len(self.code.intersection(range(node.lineno, (node.end_lineno or node.lineno) + 1)))


@dataclass(frozen=True)
class Measured:
    """One line of the table: ``where`` names the worst, or everything that is wrong."""

    what: str
    found: str
    budget: str
    ok: bool
    where: str = ""


@dataclass(frozen=True)
class Sized:
    """Something that has a length."""

    length: int
    where: str


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def sources(folder: Path) -> list[Source]:
    """The Python files below a folder, in order of their paths."""
    return [read(file) for file in sorted(folder.rglob("*.py"))]


def read(file: Path) -> Source:
    """One file's tree, the lines of it that count, and its comments."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text, str(file))
    code: set[int] = set()
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
        elif token.type not in NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return Source(file, tree, frozenset(code - set(_docstrings(tree))), comments)


def _docstrings(tree: ast.Module) -> Iterator[int]:
    """The lines of strings that stand alone: docstrings, and the explanation below a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


# ── the checks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def check(package: Path, tests: Path) -> list[Measured]:
    """Every budget: sizes of the package and of its tests, names, broad excepts, and tests for each line of code."""
    code, proof = sources(package), sources(tests)
    lines, proving = sum(len(s.code) for s in code), sum(len(s.code) for s in proof)
    ratio = proving / lines if lines else math.inf
    return [
        *sizes("package", code),
        *sizes("tests", proof),
        _none("names that say nothing", [*nameless(code, package), *nameless(proof, tests)]),
        _none("broad excepts without a reason", [found for s in (*code, *proof) for found in unreasoned(s)]),
        Measured(
            "test lines for each line of code",
            f"{ratio:.2f}",
            f"≥ {TESTS_PER_LINE:.1f}",
            ratio >= TESTS_PER_LINE,
            f"{proving:,} for {lines:,}",
        ),
    ]


def sizes(whose: str, code: Sequence[Source]) -> list[Measured]:
    """Lengths of functions, files and classes against their budgets."""
    functions = [Sized(s.length(n), f"{_at(s, n)} {n.name}") for s in code for n in _defined(s.tree) if _is_function(n)]
    classes = [Sized(s.length(n), f"{_at(s, n)} {n.name}") for s in code for n in _defined(s.tree) if _is_class(n)]
    files = [Sized(len(s.code), str(s.path)) for s in code]
    return [
        _p95(f"{whose}: functions, p95", functions, FUNCTION_P95),
        _longest(f"{whose}: functions, longest", functions, FUNCTION_MAX),
        _p95(f"{whose}: files, p95", files, FILE_P95),
        _longest(f"{whose}: files, longest", files, FILE_MAX),
        _longest(f"{whose}: classes, longest", classes, CLASS_MAX),
    ]


def nameless(code: Sequence[Source], root: Path) -> list[str]:
    """Folders, files and classes that have a forbidden word in their names."""
    paths = {p for s in code for p in (s.path, *s.path.parents) if p != root and root in p.parents}
    found = [str(path) for path in sorted(paths) if FORBIDDEN & set(_words(path.stem))]
    for s in code:
        found += [f"{_at(s, n)} {n.name}" for n in _defined(s.tree) if _is_class(n) and FORBIDDEN & set(_words(n.name))]
    return found


def unreasoned(source: Source) -> list[str]:
    """``except Exception`` and its like with no comment in the handler's first lines, unless all is raised again."""
    return [f"{source.path}:{line}" for line in _broad(source.tree) if not _reason(source, line)]


def _broad(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or _names(node.type) & BROAD):
            last = node.body[-1]
            if not (isinstance(last, ast.Raise) and last.exc is None):
                yield node.lineno
        elif isinstance(node, ast.Call) and "suppress" in _names(node.func):
            yield from (node.lineno for argument in node.args if _names(argument) & BROAD)


def _reason(source: Source, line: int) -> str:
    """The words beside it, or on the line below or above, without what only speaks to a linter."""
    said = (source.comments.get(n, "") for n in (line, line + 1, line - 1) if n == line or n not in source.code)
    return "".join(re.sub(TO_LINTERS, "", text).strip(" -–:#") for text in said)


# ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _defined(tree: ast.Module) -> Iterator[Defined]:
    return (n for n in ast.walk(tree) if isinstance(n, Defined))


def _is_class(node: Defined) -> bool:
    return isinstance(node, ast.ClassDef)


def _is_function(node: Defined) -> bool:
    return not isinstance(node, ast.ClassDef)


def _names(node: ast.expr) -> set[str]:
    """The last words of a name, an attribute, or each in a tuple."""
    if isinstance(node, ast.Tuple):
        return {name for part in node.elts for name in _names(part)}
    return {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()


def _words(name: str) -> list[str]:
    """``HttpBase`` and ``http_base`` → http, base."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _at(source: Source, node: Defined) -> str:
    return f"{source.path}:{node.lineno}"


def _p95(what: str, found: Sequence[Sized], budget: int) -> Measured:
    ordered = sorted(s.length for s in found)
    value = ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0
    return Measured(what, str(value), f"≤ {budget}", value <= budget, f"of {len(ordered)}")


def _longest(what: str, found: Sequence[Sized], budget: int) -> Measured:
    worst = max(found, key=lambda s: s.length, default=Sized(0, ""))
    too_long = sorted((s for s in found if s.length > budget), key=lambda s: -s.length)
    where = ", ".join(f"{s.where} ({s.length})" for s in too_long) or worst.where
    return Measured(what, str(worst.length), f"≤ {budget}", not too_long, where)


def _none(what: str, found: Sequence[str]) -> Measured:
    return Measured(what, str(len(found)), "none", not found, ", ".join(found))


def main(root: Path) -> int:
    """Print the table of the project at ``root``; 1 where a budget is broken."""
    package, tests = root / "modelkeep", root / "tests"
    for folder in (package, tests):
        if not folder.is_dir():
            print(f"budgets: there is no folder {folder}", file=sys.stderr)
            return 2
    table = check(package, tests)
    wide = max(len(line.what) for line in table)
    for line in table:
        where = line.where.replace(f"{root}/", "")
        print(f"{'ok' if line.ok else 'NO'}  {line.what:<{wide}}  {line.found:>5}  {line.budget:>6}  {where}")
    return int(not all(line.ok for line in table))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])))
