"""Is the code still small? Measures modelkeep/ and tests/ with ast, and fails where a budget is broken.

    python scripts/budgets.py [ROOT]

Lines of a function are those from its ``def`` to its end, without its docstring. Lines of a file are all of its lines.
The ratio of tests to code counts lines that hold code: no blank lines, no comments, no docstrings.
"""

from __future__ import annotations

import ast
import io
import math
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FORBIDDEN = frozenset({"utils", "common", "helpers", "manager", "base"})
"""Names that say nothing, so that anything ends up there."""
BROAD = frozenset({"Exception", "BaseException"})
MARKS = ("noqa", "type:", "pragma", "pylint", "fmt:")
"""Comments for tools, which are no reason."""
EMPTY = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Measure:
    """One row of the table. ``worst`` names the worst offender, and is read only where ``ok`` is False."""

    name: str
    found: str
    budget: str
    ok: bool
    worst: str = ""


@dataclass(frozen=True)
class Source:
    """One parsed file; ``path`` is relative to the root."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> list[str]:
        """All of its lines."""
        return self.text.splitlines()

    @property
    def code_lines(self) -> int:
        """Lines that hold code: not blank, no comment alone, no docstring."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        held = {n for t in tokens if t.type not in EMPTY for n in range(t.start[0], t.end[0] + 1)}
        for node in ast.walk(self.tree):
            if isinstance(node, Documented):
                held -= docstring(node)
        return sum(1 for number, line in enumerate(self.lines, 1) if number in held and line.strip())


def read(root: Path, folder: str) -> list[Source]:
    """Every Python file below ``root/folder``."""
    found = []
    for file in sorted((root / folder).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found.append(Source(file.relative_to(root), text, ast.parse(text, filename=str(file))))
    return found


def docstring(node: Documented) -> set[int]:
    """The numbers of the lines of its docstring; none where it has none."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return set()


def length(node: Function | ast.ClassDef) -> int:
    """Lines from ``def`` or ``class`` to the end; a function's docstring is left out."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    return lines - len(docstring(node)) if isinstance(node, Function) else lines


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values do not exceed; 0 of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0


def sized(name: str, sizes: Sequence[tuple[int, str]], budget: int, share: float = 1.0) -> Measure:
    """A measure of (size, name of the thing): the percentile, or for a share of 1 the largest."""
    found = percentile([size for size, _ in sizes], share)
    size, thing = max(sizes, default=(0, "nothing"))
    return Measure(f"lines, {name}", str(found), f"≤ {budget}", found <= budget, f"{thing}: {size} lines")


def functions(sources: Sequence[Source]) -> list[tuple[int, str]]:
    """Lines and name of every function and method."""
    return [(length(n), where(s, n)) for s in sources for n in ast.walk(s.tree) if isinstance(n, Function)]


def classes(sources: Sequence[Source]) -> list[tuple[int, str]]:
    """Lines and name of every class."""
    return [(length(n), where(s, n)) for s in sources for n in ast.walk(s.tree) if isinstance(n, ast.ClassDef)]


def where(source: Source, node: Function | ast.ClassDef) -> str:
    """``modelkeep/types.py:19 Ref``."""
    return f"{source.path}:{node.lineno} {node.name}"


def names(sources: Sequence[Source]) -> Measure:
    """No file or folder with a name that says nothing."""
    bad = [str(s.path) for s in sources if FORBIDDEN & {*s.path.parts[:-1], s.path.stem}]
    return Measure("names that say nothing", str(len(bad)), "0", not bad, ", ".join(bad))


def broad(sources: Sequence[Source]) -> Measure:
    """Every except that catches everything says why on its own line."""
    bad = [f"{s.path}:{line}" for s in sources for line in unreasoned(s)]
    return Measure("broad excepts without a reason", str(len(bad)), "0", not bad, ", ".join(bad))


def unreasoned(source: Source) -> Iterator[int]:
    """Line numbers of broad excepts whose line has no comment, or none but marks for tools."""
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.ExceptHandler) and catches_all(node.type)):
            continue
        parts = (part.strip() for part in comments.get(node.lineno, "").split("#"))
        if not any((part and not part.startswith(MARKS)) or " (" in part for part in parts):
            yield node.lineno


def catches_all(kind: ast.expr | None) -> bool:
    """Bare, or Exception or BaseException, alone or in a tuple."""
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(k, ast.Name) and k.id in BROAD for k in kinds)


def ratio(code: Sequence[Source], tests: Sequence[Source]) -> Measure:
    """Lines of tests over lines of code."""
    ours, theirs = sum(s.code_lines for s in code), sum(s.code_lines for s in tests)
    found = theirs / ours if ours else math.inf
    missing = f"tests/ lacks {ours - theirs} lines"
    return Measure("lines of tests / of code", f"{theirs}/{ours} = {found:.2f}", "≥ 1.00", theirs >= ours, missing)


def measures(root: Path) -> list[Measure]:
    """Every measure of the repository at ``root``."""
    code, tests = read(root, "modelkeep"), read(root, "tests")
    files = [(len(s.lines), str(s.path)) for s in code]
    return [
        sized("functions, p95", functions(code), 40, 0.95),
        sized("functions, longest", functions(code), 100),
        sized("files, p95", files, 300, 0.95),
        sized("files, longest", files, 450),
        sized("classes, longest", classes(code), 250),
        names(code),
        broad(code),
        ratio(code, tests),
    ]


def main(root: Path) -> int:
    """Print the table; 1 where a budget is broken, each with its worst offender."""
    if not (root / "modelkeep").is_dir():
        print(f"{root} has no modelkeep/ to measure", file=sys.stderr)
        return 2
    table = measures(root)
    for name, found, budget in [("measure", "found", "budget"), *((m.name, m.found, m.budget) for m in table)]:
        print(f"{name:<32}{found:>20}   {budget}")
    for broken in (m for m in table if not m.ok):
        print(f"over budget: {broken.name}: {broken.worst}", file=sys.stderr)
    return 0 if all(m.ok for m in table) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parent.parent))
