"""A client of a modelkeep server, or of any other that speaks the Open Inference Protocol v2: numpy in, numpy out.

with Client("http://127.0.0.1:8080") as client:
    reply = client.infer("digits", {"pixels": rows})
    reply.outputs["logits"], reply.version
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import numpy as np

from modelkeep import errors
from modelkeep.errors import BadInput, ModelkeepError, NotReady, Overloaded, TooLate
from modelkeep.serve.protocol import codec
from modelkeep.types import Reply

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

LENGTH = "inference-header-content-length"
TIMEOUT = "x-modelkeep-timeout"
"""Seconds that are left, told anew each time that a request is sent."""
AGAIN = frozenset({429, 503})
"""Statuses of a server that did not begin with the request: to send it again is safe."""
PAUSE = 0.1
"""Seconds before the second try; each further one waits twice as long, or as long as the server says."""
MARGIN = 0.5
"""Seconds that an answer may be late: the server's own sentence says more than a connection that is cut."""
BY_STATUS = {
    kind.status: kind
    for kind in (errors.BadInput, errors.Unauthenticated, errors.Forbidden, errors.NotFound, NotReady, TooLate)
}


@dataclass(frozen=True)
class _Asked:
    """One call: what to send, and until when (time.monotonic)."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    until: float


class _Terms:
    """What both clients share: where, as whom, and when to try again."""

    def __init__(self, url: str, key: str | None, timeout: float, retries: int, verify: Any) -> None:
        if not url.startswith(("http://", "https://")):  # as other clients are given it
            raise BadInput(f"'{url}' is no address of a server; write http://{url}, or https where it has TLS")
        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise BadInput(f"'{url}' is no address of a server: {error}") from None
        key = (key or "").strip()  # as a file of one line ends in a line's end
        if not (key.isascii() and all("!" <= c <= "~" for c in key)):
            raise BadInput("the API key holds characters that no key has; give it as modelkeep keys --add showed it")
        self.timeout, self.retries = _seconds(timeout), retries
        self.options: dict[str, Any] = {
            "base_url": url,
            "verify": verify,
            "timeout": timeout,
            "headers": {"authorization": f"Bearer {key}"} if key else {},
        }

    def asked(self, method: str, path: str, timeout: float | None, content: Any = None) -> _Asked:
        until = time.monotonic() + self.seconds(timeout)
        return _Asked(method, path, b"" if content is None else _json(content), {}, until)

    def seconds(self, timeout: float | None) -> float:
        """That a call may take, where it was given this. Raises BadInput."""
        return self.timeout if timeout is None else _seconds(timeout)

    def question(
        self,
        model: str,
        inputs: Arrays,
        version: int | None,
        outputs: Sequence[str],
        parameters: Mapping[str, Any],
        timeout: float | None,
    ) -> _Asked:
        seconds = self.seconds(timeout)
        body, length = pack(inputs, outputs, parameters)
        where = _path(model) + ("" if version is None else f"/versions/{version}")
        headers = {LENGTH: str(length), TIMEOUT: ""}
        return _Asked("POST", f"{where}/infer", body, headers, time.monotonic() + seconds)

    def exchange(self, asked: _Asked) -> Generator[float | None, httpx.Response | Exception | None, httpx.Response]:
        """Says None where the request is to be sent, and is told what came of it; else the seconds to wait first.

        Returns the answer of a request that succeeded, and raises the error of one that failed for good.
        """
        pause, tries = PAUSE, 0
        while True:
            got = yield None
            if isinstance(got, httpx.Response) and got.is_success:
                return got
            unsent = isinstance(got, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            turned_away = isinstance(got, httpx.Response) and got.status_code in AGAIN
            wait = max(pause, _retry_after(got))
            if not (unsent or turned_away) or tries == self.retries or time.monotonic() + wait >= asked.until:
                raise _error(got, self.options["base_url"])
            yield wait
            pause, tries = 2 * pause, tries + 1


def pack(inputs: Arrays, outputs: Sequence[str] = (), parameters: Mapping[str, Any] | None = None) -> tuple[bytes, int]:
    """An infer request with binary tensors, and how many of its bytes are JSON. float16 and text go as they are.

    Raises BadInput for what the protocol cannot carry.
    """
    tensors, blobs = [], []
    for name, value in inputs.items():
        array = np.asarray(value)
        datatype = codec.datatype_of(array)
        if array.dtype.kind == "O" and (odd := [x for x in array.flat if not isinstance(x, str | bytes)]):
            raise errors.BadInput(f"input '{name}' holds {odd[0]!r:.80}, which is no text; give text throughout")
        try:
            blobs.append(codec.to_bytes(array, datatype))
        except UnicodeEncodeError as error:
            raise BadInput(f"input '{name}' holds text that UTF-8 cannot carry: {error.reason}") from None
        sizes = {"binary_data_size": len(blobs[-1])}
        tensors.append({"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": sizes})
    head = {
        "id": uuid.uuid4().hex,
        "inputs": tensors,
        "outputs": [{"name": name} for name in outputs],
        "parameters": {**(parameters or {}), "binary_data_output": True},
    }
    if not outputs:
        del head["outputs"]
    text = _json(head)
    return b"".join([text, *blobs]), len(text)


def _seconds(given: float) -> float:
    if not 0 < given < 1e9:
        raise BadInput(f"a timeout of {given} is none; give seconds above 0")
    return given


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _ready(model: str | None) -> str:
    return "/v2/health/ready" if model is None else f"{_path(model)}/ready"


def _json(content: Any) -> bytes:
    """With numpy's numbers as Python's. Raises BadInput for what JSON has not."""
    try:
        return json.dumps(content, default=_plain, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadInput(f"JSON cannot carry this: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{value!r:.80} is no text, no number, no list and no table of them")


def unpack(body: bytes, length: int | None) -> Reply:
    """The reply to an infer request, in JSON, bytes or both. Raises ModelkeepError for what is none."""
    try:
        head = json.loads(body if length is None else body[:length])
        tail = memoryview(body)[length if length is not None else len(body) :]
        outputs: dict[str, Array] = {}
        for tensor in head["outputs"]:
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
            if size is None:
                outputs[name] = codec.from_json(name, datatype, shape, _with_nan(tensor["data"], datatype))
            else:
                outputs[name], tail = codec.from_bytes(name, datatype, shape, tail[:size]), tail[size:]
        version = head.get("model_version", "")
        number = int(version) if str(version).isdecimal() else 0
        return Reply(head.get("id", ""), head["model_name"], number, outputs)
    except (ValueError, KeyError, TypeError, AttributeError, errors.BadInput) as error:
        raise ModelkeepError(f"the server's answer is none of the Open Inference Protocol: {error!r}") from error


def _with_nan(data: Any, datatype: str) -> Any:
    """A server that has no NaN in JSON says null."""
    if not datatype.startswith("FP"):
        return data
    return [_with_nan(x, datatype) if isinstance(x, list) else float("nan") if x is None else x for x in data]


def _error(got: httpx.Response | Exception | None, url: str) -> ModelkeepError:
    """The server's sentence, as the error that it is in this process too; or why there was no answer."""
    if isinstance(got, httpx.TimeoutException):
        return TooLate(f"{url} gave no answer in the time allowed")
    if isinstance(got, httpx.DecodingError):
        return ModelkeepError(f"the answer of {url} cannot be unpacked: {got}")
    if not isinstance(got, httpx.Response):
        mend = (
            "give its certificate with verify=" if "CERTIFICATE_VERIFY_FAILED" in str(got) else "is the server running?"
        )
        return NotReady(f"{url} cannot be reached ({got or type(got).__name__}); {mend}")
    try:
        said = str(got.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = f"{url} answered with status {got.status_code}"
    if got.status_code == Overloaded.status:
        return Overloaded(said, _retry_after(got) or 1.0)
    return BY_STATUS.get(got.status_code, ModelkeepError)(said)


def _retry_after(got: httpx.Response | Exception | None) -> float:
    """Seconds, which a server says as such or by a date (RFC 9110, 10.2.3); 0 where it does not."""
    text = got.headers.get("retry-after", "") if isinstance(got, httpx.Response) else ""
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


class Client:
    """Blocks. Safe to use from several threads, and after a fork. ``key`` is an API key; times are in seconds.

    A request that the server turned away (429, 503), or whose connection could not be made, is sent again up to
    ``retries`` times, as late as the server says (Retry-After) and never beyond ``timeout``. One that the server may
    have begun with is not: where it fails, its error is raised.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        verify: Any = True,
    ) -> None:
        self._terms = _Terms(url, key, timeout, retries, verify)
        self._made, self._owner = httpx.Client(**self._terms.options), os.getpid()

    def infer(
        self,
        model: str,
        inputs: Arrays,
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Ask. Arrays by input name in, a Reply with arrays by output name out.

        Raises BadInput, NotFound, Unauthenticated, Forbidden, Overloaded, NotReady, TooLate, ModelkeepError.
        """
        answer = self._send(self._terms.question(model, inputs, version, outputs, parameters or {}, timeout))
        return unpack(answer.content, _length(answer))

    def ready(self, model: str | None = None) -> bool:
        """Whether the model, or every model, answers; False where the server cannot be reached."""
        got = self._ask(self._terms.asked("GET", _ready(model), None))
        return isinstance(got, httpx.Response) and got.status_code == 200

    def metadata(self, model: str) -> dict[str, Any]:
        """Its inputs, outputs and versions."""
        return _object(self._send(self._terms.asked("GET", _path(model), None)))

    def label(self, model: str, truth: Mapping[str, Any]) -> int:
        """Hand in the truth by request id; returns how many match a captured request."""
        asked = self._terms.asked("POST", f"{_path(model)}/labels", None, {"labels": dict(truth)})
        return int(_object(self._send(asked), "matched")["matched"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _http(self) -> httpx.Client:
        """Its connections. After a fork they are the parent's too, and each would read the other's answers."""
        if self._owner != os.getpid():
            self._made, self._owner = httpx.Client(**self._terms.options), os.getpid()
        return self._made

    def _ask(self, asked: _Asked) -> httpx.Response | Exception:
        """Once. httpx bounds the time of each part of an answer, and not that of all parts."""
        until, parts = asked.until + MARGIN, []
        try:
            with self._http.stream(asked.method, asked.path, **_content(asked)) as got:
                for part in got.iter_raw():
                    parts.append(part)
                    if time.monotonic() > until:
                        return httpx.ReadTimeout("the answer takes too long")
            return httpx.Response(got.status_code, headers=got.headers, content=b"".join(parts))
        except httpx.RequestError as error:
            return error

    def _send(self, asked: _Asked) -> httpx.Response:
        work = self._terms.exchange(asked)
        wait = next(work)
        while True:
            got: httpx.Response | Exception | None = None
            if wait is not None:
                time.sleep(wait)
            else:
                got = self._ask(asked)
            try:
                wait = work.send(got)
            except StopIteration as done:
                answer: httpx.Response = done.value
                return answer


class AsyncClient:
    """The same for asyncio: every method is awaited. See Client. Connections do not outlive their event loop: in the
    next (``asyncio.run``, say) it makes others.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        verify: Any = True,
    ) -> None:
        self._terms = _Terms(url, key, timeout, retries, verify)
        self._made, self._owner = httpx.AsyncClient(**self._terms.options), _here()

    async def infer(
        self,
        model: str,
        inputs: Arrays,
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """See Client.infer."""
        answer = await self._send(self._terms.question(model, inputs, version, outputs, parameters or {}, timeout))
        return unpack(answer.content, _length(answer))

    async def ready(self, model: str | None = None) -> bool:
        """See Client.ready."""
        got = await self._ask(self._terms.asked("GET", _ready(model), None))
        return isinstance(got, httpx.Response) and got.status_code == 200

    async def metadata(self, model: str) -> dict[str, Any]:
        """See Client.metadata."""
        return _object(await self._send(self._terms.asked("GET", _path(model), None)))

    async def label(self, model: str, truth: Mapping[str, Any]) -> int:
        """See Client.label."""
        asked = self._terms.asked("POST", f"{_path(model)}/labels", None, {"labels": dict(truth)})
        return int(_object(await self._send(asked), "matched")["matched"])

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _http(self) -> httpx.AsyncClient:
        """Its connections, which belong to a process, as Client's do, and to an event loop."""
        if self._owner != (here := _here()):
            if self._owner[1] is not None:
                self._made = httpx.AsyncClient(**self._terms.options)
            self._owner = here
        return self._made

    async def _ask(self, asked: _Asked) -> httpx.Response | Exception:
        """Once."""
        try:
            async with asyncio.timeout(max(0.0, asked.until - time.monotonic()) + MARGIN):
                return await self._http.request(asked.method, asked.path, **_content(asked))
        except TimeoutError:
            return httpx.ReadTimeout("the answer takes too long")
        except httpx.RequestError as error:
            return error

    async def _send(self, asked: _Asked) -> httpx.Response:
        work = self._terms.exchange(asked)
        wait = next(work)
        while True:
            got: httpx.Response | Exception | None = None
            if wait is not None:
                await asyncio.sleep(wait)
            else:
                got = await self._ask(asked)
            try:
                wait = work.send(got)
            except StopIteration as done:
                answer: httpx.Response = done.value
                return answer


def _here() -> tuple[int, asyncio.AbstractEventLoop | None]:
    """What connections of asyncio belong to: the process, and the event loop where one runs."""
    try:
        return os.getpid(), asyncio.get_running_loop()
    except RuntimeError:
        return os.getpid(), None


def _content(asked: _Asked) -> dict[str, Any]:
    left = max(0.001, asked.until - time.monotonic())
    headers = {**asked.headers, TIMEOUT: f"{left:.3f}"} if TIMEOUT in asked.headers else asked.headers
    return {"content": asked.body, "headers": headers, "timeout": left + MARGIN}


def _length(answer: httpx.Response) -> int | None:
    text = answer.headers.get(LENGTH, "")
    return int(text) if text.isdecimal() else None


def _object(answer: httpx.Response, *needed: str) -> dict[str, Any]:
    """Its JSON, which has these fields. Raises ModelkeepError where it has not."""
    with contextlib.suppress(ValueError):
        found = answer.json()
        if isinstance(found, dict) and found.keys() >= set(needed):
            return found
    raise ModelkeepError(f"{answer.text[:80]!r} is no answer of an inference server; does the address lead to one?")
