"""What a newcomer installs: few libraries, each with a version that is known to work."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    named = [text for texts in EXTRAS.values() for text in texts]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *named)]


def recipe(target: str) -> str:
    """A target of the Makefile: what it needs, and its commands."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(target)}:.*(?:\n\t.*)*", text, re.MULTILINE)
    assert found is not None, f"Makefile has no {target}"
    return found[0]


def test_few_direct_dependencies() -> None:
    assert len(PROJECT["dependencies"]) <= 14


def test_the_extras_exist() -> None:
    assert {"torch", "optimize", "openvino", "grpc", "dev", "all"} <= set(EXTRAS)


def test_all_holds_every_extra_that_fits_together() -> None:
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == "modelkeep"
    assert everything.extras == set(EXTRAS) - {"all", "dev"}


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_known_version_satisfies_each_requirement(requirement: Requirement) -> None:
    if requirement.marker and not requirement.marker.evaluate():
        return  # of another system
    if requirement.name == "modelkeep":
        assert requirement.extras <= set(EXTRAS)
        return
    known = constraints().get(canonicalize_name(requirement.name))
    assert known is not None, f"constraints.txt lacks {requirement.name}"
    assert known in requirement.specifier


def test_each_requirement_says_the_oldest_version_that_works() -> None:
    assert [str(r) for r in requirements() if r.name != "modelkeep" and ">=" not in str(r.specifier)] == []


def test_constraints_hold_for_every_machine() -> None:
    assert [name for name, version in constraints().items() if version.local] == []


def test_python_and_licence() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert "3.11" in supported
    assert "3.10" not in supported
    assert PROJECT["license"] == "Apache-2.0"
    (licence,) = PROJECT["license-files"]
    assert "Apache License" in (ROOT / licence).read_text(encoding="utf-8")


def test_make_installs_the_known_versions() -> None:
    assert recipe("install").strip() == "install: $(INSTALLED)"
    rule = recipe("$(INSTALLED)")
    assert "--constraint constraints.txt" in rule
    assert "pyproject.toml constraints.txt" in rule.splitlines()[0]


def test_make_test_checks_everything() -> None:
    assert "pytest" in recipe("test")
    assert recipe("test").splitlines()[0].startswith("test: check")
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports", "scripts/budgets.py"):
        assert tool in recipe("check")


def test_ci_runs_make_test() -> None:
    file = ROOT / ".ci" / "run"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("#!")
    assert file.stat().st_mode & 0o111
    assert text.strip().splitlines()[-1].endswith("make test")


def test_the_readme_is_short_and_named() -> None:
    assert len((ROOT / PROJECT["readme"]).read_text(encoding="utf-8").splitlines()) <= 150


def test_the_command_is_there() -> None:
    module, _, name = PROJECT["scripts"]["modelkeep"].partition(":")
    assert (module, name) == ("modelkeep.cli", "script")
