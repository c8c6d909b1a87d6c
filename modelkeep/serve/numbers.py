"""Versions in a path of Starlette's routes."""

from __future__ import annotations

from starlette.convertors import IntegerConvertor, register_url_convertor

NUMBER = "version"
"""``{version:NUMBER}``: as infer.PATH has them. Starlette's own ``int`` fails on what has more than 4300 digits."""


class Number(IntegerConvertor):
    """A whole number of nine digits at most."""

    regex = "[0-9]{1,9}"


register_url_convertor(NUMBER, Number())
