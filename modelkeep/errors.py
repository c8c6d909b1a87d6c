"""Every error that modelkeep raises on purpose. Each message is one sentence that says what to do.

ModelkeepError
├── Wrong                the call is wrong: exit code 2, status 400
│   ├── BadRef           not a name of a model or version
│   ├── BadInput         inputs that do not fit the signature
│   ├── BadData          a dataset that cannot be read or does not fit
│   ├── BadModel         not a model file, or not one that can be used so
│   ├── BadSettings      modelkeep.toml, MODELKEEP_* or a policy file
│   ├── Untrusted        would unpickle, and nobody said --trust
│   ├── MissingExtra     needs a pip extra that is not installed
│   ├── Unsupported      no route between two formats, no such engine
│   ├── Unauthenticated  no API key, or none that is known: status 401
│   ├── Forbidden        a key whose scopes do not reach so far: status 403
│   └── PortInUse        another program listens there
├── NotFound             no such model, version, file or alias: exit code 2, status 404
├── No                   the answer is no: exit code 1
│   ├── Differs          a conversion whose answers changed
│   │   └── Undecided    nothing can be told, for the reference itself has no answers that could show a change
│   ├── Regressed        below the accuracy that was promised
│   └── Conflict         somebody else changed it first
├── Busy                 the service cannot take it now
│   ├── Overloaded       status 429, with retry_after
│   ├── NotReady         status 503
│   └── TooLate          the deadline passed: status 504
└── Damaged              what is stored, or the disk: exit code 1
    ├── DamagedFile      what is kept of traffic is no such file; BadData too, for it can be moved away
    ├── DigestMismatch   a file is not the one that was stored
    └── StorageFull      no space left while storing; nothing was stored
"""

from __future__ import annotations

import reprlib


class _Short(reprlib.Repr):
    """Python's words for what is short, but JSON's where these differ, for in JSON it was given."""

    def repr_NoneType(self, given: None, level: int) -> str:  # noqa: N802 - the name of a type
        return "null"

    def repr_bool(self, given: bool, level: int) -> str:
        return "true" if given else "false"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = _SHORT.maxtuple = 20


def brief(given: object) -> str:
    """What was given as JSON, for a sentence: 80 characters at most, however long or deeply nested it is."""
    text = _SHORT.repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."


def first_line(error: BaseException) -> str:
    """What an error of some library says, for a sentence: the first line of it that has words, else its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


class ModelkeepError(Exception):
    """The root: catch it to catch all of them."""

    exit_code = 2
    status = 500


class Wrong(ModelkeepError):
    """The call is wrong."""

    status = 400


class BadRef(Wrong):
    """Not a name of a model or version."""


class BadInput(Wrong):
    """Inputs that do not fit the signature."""


class BadData(Wrong):
    """A dataset that cannot be read or does not fit."""


class BadModel(Wrong):
    """Not a model file, or not one that can be used so."""


class BadSettings(Wrong):
    """modelkeep.toml, MODELKEEP_* or a policy file holds something wrong."""


class Untrusted(Wrong):
    """Would unpickle, which can run code, and nobody said --trust."""


class MissingExtra(Wrong):
    """Needs a pip extra that is not installed."""


class Unsupported(Wrong):
    """No route between two formats, or no such engine."""


class Unauthenticated(Wrong):
    """No API key, or none that is known."""

    status = 401


class Forbidden(Wrong):
    """A key whose scopes do not reach so far."""

    status = 403


class PortInUse(Wrong):
    """Another program listens there."""


class NotFound(ModelkeepError):
    """No such model, version, file or alias."""

    status = 404


class No(ModelkeepError):
    """The answer is no."""

    exit_code = 1
    status = 409


class Differs(No):
    """A conversion whose answers changed."""


class Undecided(Differs):
    """Nothing can be told of the answers: the reference fails, is NaN, varies by itself or never varies."""


class Regressed(No):
    """Below the accuracy that was promised."""


class Conflict(No):
    """Somebody else changed it first."""


class Busy(ModelkeepError):
    """The service cannot take it now."""

    exit_code = 1
    status = 503


class Overloaded(Busy):
    """Too much is waiting already. ``retry_after`` is in seconds."""

    status = 429

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(Busy):
    """Nothing is loaded that could answer."""


class TooLate(Busy):
    """The deadline passed."""

    status = 504


class Damaged(ModelkeepError):
    """What is stored, or the disk, is not as it must be."""

    exit_code = 1
    status = 500


class DamagedFile(Damaged, BadData):
    """A file that servers keep beside the registry is damaged, or another program's: moved away, it is made anew."""


class DigestMismatch(Damaged):
    """A file is not the one that was stored."""


class StorageFull(Damaged):
    """No space left while storing; nothing was stored."""
