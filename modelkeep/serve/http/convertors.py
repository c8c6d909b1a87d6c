"""How Starlette's routes read the version in a path."""

from __future__ import annotations

from starlette.convertors import IntegerConvertor, register_url_convertor

VERSION = "version"
"""``{version:VERSION}``: as infer.PATH has them. Starlette's own ``int`` fails on what has more than 4300 digits."""


class Version(IntegerConvertor):
    """A whole number of nine digits at most."""

    regex = "[0-9]{1,9}"


register_url_convertor(VERSION, Version())
