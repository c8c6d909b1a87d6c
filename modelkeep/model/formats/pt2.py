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
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modelkeep.errors import BadModel, Untrusted

OPERATOR = re.compile(
    r"torch\.ops\.\w+\.(?!from_file\b|save\b)\w+\.\w+|torch\.sym_\w+|(?:math|_operator)\.(?!attrgetter|methodcaller|call)\w+"
)
SYMBOL = re.compile(r"Symbol\('\w+'(?:, \w+=(?:True|False))*\)|Float\('[\w.+-]+'(?:, precision=\d+)?\)")
"""The two places where sympy's srepr, which torch.export writes sizes with, has a quote."""
WORD = re.compile(
    r"[a-z]+\d+|int_oo|oo|[tT]rue|[fF]alse|Add|Mul|Pow|Integer|Rational|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|"
    r"IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|ToFloat|TruncToInt|TruncToFloat|RoundToInt|RoundDecimal|CeilToInt|"
    r"FloorToInt|ModularIndexing|Identity|Where|Piecewise|ExprCondPair|IsNonOverlappingAndDenseIndicator|"
    r"LShift|RShift|Abs|floor|ceiling|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan|"
    r"StrictGreaterThan|GreaterThan"
)


NOTES = re.compile(
    r"(?:\w+/)?(?:(?:archive_)?version|archive_format|byteorder|\.format_version|\.storage_alignment|\.data/.*)"
)
"""Members that torch reads as short text, or not at all."""


def check(source: Path) -> None:
    """Raises Untrusted, which names the member, or BadModel for an archive that cannot be read."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise BadModel(f"{source} is damaged: two of its members have one name")
            raw = _raw([json.loads(archive.read(name)) for name in names if name.endswith("_config.json")])
            for name in names:
                wrong = None if name.rpartition("/")[2] in raw else _look(archive.read(name), name)
                if wrong:
                    raise Untrusted(
                        f"'{name}' of {source} holds {wrong}, which could run any code when the file is opened; "
                        "pass --trust if you made the file yourself"
                    )
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadModel(f"{source} is damaged: {error!r}") from error


def _raw(configs: list[Any]) -> set[str]:
    """The members that torch reads as plain bytes of a tensor, and never as a pickle."""
    entries = [entry for config in configs for entry in config["config"].values()]
    pickled = {entry["path_name"] for entry in entries if entry["use_pickle"] is not False}
    plain = {entry["path_name"] for entry in entries} - pickled
    return {name for name in plain if name.startswith(("weight_", "tensor_"))}


def _look(data: bytes, name: str) -> str | None:
    if name.endswith(".json"):
        return next(_suspicious(json.loads(data)), None)
    if NOTES.fullmatch(name) or not data:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the answer is yes or no
            torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        return "something else than tensors"
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
