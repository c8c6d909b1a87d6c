"""Optional libraries, and things named by a string. The error names the pip extra, never a traceback."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from modelkeep.errors import BadModel, MissingExtra, Unsupported

OWN = re.compile(r"modelkeep(\.|$)")
LOADING = "loading"
"""Name of a thread on which an engine loads a model; one that nobody waits for any more cannot be ended."""
REPORTS_HOME = {"openvino": "openvino_telemetry"}
"""What tells its maker when it is imported, and with what: kept out of the process, which the library allows for."""


def need(module: str, *, extra: str) -> ModuleType:
    """Import a library that an extra brings. Raises MissingExtra with the command that installs it."""
    top = module.partition(".")[0]
    if top in REPORTS_HOME:
        sys.modules.setdefault(REPORTS_HOME[top], None)  # type: ignore[arg-type]  # None: importing it fails
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"this needs {top} ({error}); install it with: pip install 'modelkeep[{extra}]'") from error


def has(module: str) -> bool:
    """Whether a library is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False


def load(target: str, *, beside: Path | None = None) -> Any:
    """What ``module:Name`` names. With ``beside``, a file module.py in that folder wins over sys.path.

    Raises BadModel for text of another form, a module that cannot be imported, or a name that it lacks; MissingExtra
    for a module of modelkeep's own whose library is not installed.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise BadModel(f"'{target}' is not of the form module:Name")
    file = beside / f"{module_name}.py" if beside else None
    try:
        module = _from_file(module_name, file) if file and file.is_file() else importlib.import_module(module_name)
    except Exception as error:  # a person's module may raise anything while it is imported
        if OWN.match(module_name) and isinstance(error, ModuleNotFoundError) and not OWN.match(error.name or ""):
            raise MissingExtra(
                f"this needs {error.name}, which is not installed; modelkeep doctor names the command that installs it"
            ) from error
        raise BadModel(f"module '{module_name}' of '{target}' cannot be imported: {error!r}") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise BadModel(f"module '{module_name}' has no '{name}'")
        found = getattr(found, part)
    return found


def choose(table: Mapping[str, str], name: str, options: Mapping[str, Any], *, to: str) -> Any:
    """The dataclass of that name in a table of ways ``to`` do something, made with these options.

    Raises Unsupported with the names there are, of ways or of a way's options.
    """
    if name not in table:
        raise Unsupported(f"there is no way to {to} called '{name}'; there are: {', '.join(table)}")
    kind = load(table[name])
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise Unsupported(f"'{name}' has no option '{option}'; there are: {', '.join(known)}")
    return kind(**options)


def _from_file(module_name: str, file: Path) -> ModuleType:
    """Two versions may keep different files under one module name, so each file gets a name of its own."""
    unique = f"_modelkeep_{abs(hash(str(file.resolve())))}_{module_name}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # a half-imported module must not be found by the next load; it is raised again
        del sys.modules[unique]
        raise
    return module
