"""Whether a .pt2 archive can be opened without running anything that a stranger put into it.

torch.export.load unpickles some members, evaluates sizes as expressions and looks operators up by their dotted name,
so PyTorch's own advice is to open no file of unknown origin. Here each of the three is held to a list of what
torch.export itself writes; whatever is not on it needs --trust.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modelkeep.errors import BadModel, Untrusted

OPERATOR = re.compile(r"torch\.ops\.\w+\.\w+\.\w+|torch\.sym_\w+|(?:math|_operator)\.(?!attrgetter|methodcaller|call)\w+")
SYMBOL = re.compile(r"Symbol\('\w+'(?:, \w+=(?:True|False))*\)|Float\('[\w.+-]+'(?:, precision=\d+)?\)")
"""The two places where sympy's srepr, which torch.export writes sizes with, has a quote."""
WORD = re.compile(
    r"[a-z]+\d+|int_oo|oo|[tT]rue|[fF]alse|Add|Mul|Pow|Integer|Rational|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|"
    r"IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|ToFloat|TruncToInt|TruncToFloat|RoundToInt|RoundDecimal|CeilToInt|"
    r"FloorToInt|ModularIndexing|Identity|Where|Piecewise|ExprCondPair|IsNonOverlappingAndDenseIndicator|"
    r"LShift|RShift|Abs|floor|ceiling|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan|"
    r"StrictGreaterThan|GreaterThan"
)


def check(source: Path) -> None:
    """Raises Untrusted, which names the member, or BadModel for an archive that cannot be read."""
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                wrong = _look(archive.read(name), name)
                if wrong:
                    raise Untrusted(
                        f"'{name}' of {source} holds {wrong}, which could run any code when the file is opened; "
                        "pass --trust if you made the file yourself"
                    )
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{source} is damaged: {error}") from error


def _look(data: bytes, name: str) -> str | None:
    if data[:2] == b"PK" or data[:1] == b"\x80":
        return _pickled(data)
    if name.endswith(".json"):
        return next(_suspicious(json.loads(data)), None)
    return None


def _pickled(data: bytes) -> str | None:
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return "a pickle of more than tensors"
    except (RuntimeError, EOFError):
        return None  # raw weights that look like a pickle; torch.export.load does not unpickle them either
    return None


def _suspicious(value: Any) -> Iterator[str]:
    """Every operator ("target") and size ("expr_str") of the graph, wherever it stands."""
    if isinstance(value, list):
        for item in value:
            yield from _suspicious(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "target" and isinstance(item, str) and not OPERATOR.fullmatch(item):
                yield f"the operator '{item}'"
            elif key == "expr_str" and isinstance(item, str) and not _plain_size(item):
                yield f"the size '{item}'"
            else:
                yield from _suspicious(item)


def _plain_size(text: str) -> bool:
    """Numbers, symbols, the functions of sizes and arithmetic: no attribute, no subscript, no other name or quote."""
    text = SYMBOL.sub("0", text)
    if not re.fullmatch(r"[\w\s+\-*/%(),<>=&|~!]*", text):
        return False
    return all(WORD.fullmatch(word) for word in re.findall(r"[^\W\d]\w*", text))
