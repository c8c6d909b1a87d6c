"""A client that never stops asking: digits of a World to a served model, and the truth a little later.

It counts what it sent, what was answered, and what failed: a request that got no answer of status 200 is lost.
"""

import http.client
import json
import threading
import time
from collections import Counter, deque
from itertools import pairwise

from world import World

LABEL_AFTER = 25
"""Labels are handed in this many requests after the answer."""


class Client(threading.Thread):
    """Asks ``rate`` times a second over one kept-alive connection until ``stop``."""

    def __init__(self, port: int, model: str, world: World, *, rate: float = 250.0) -> None:
        super().__init__(daemon=True)
        self.port, self.model, self.world, self.rate = port, model, world, rate
        self.sent = self.answered = 0
        self.failures: list[str] = []
        self.by_version: Counter[str] = Counter()
        self.right: deque[tuple[float, str, bool]] = deque(maxlen=100_000)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Ask, on a steady beat, and hand in what is due."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        due: deque[tuple[str, int]] = deque()
        beat = time.monotonic()
        for pixels, label in self.world:
            if self._stopping.is_set():
                break
            beat = max(beat + 1 / self.rate, time.monotonic() - 0.1)
            time.sleep(max(0.0, beat - time.monotonic()))
            reply = self._ask(connection, pixels, label)
            if reply is not None:
                due.append((reply, label))
            if len(due) >= 2 * LABEL_AFTER:
                self._tell(connection, dict(due.popleft() for _ in range(LABEL_AFTER)))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, pixels, label: int) -> str | None:
        tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": pixels.ravel().tolist()}
        self.sent += 1
        try:
            connection.request("POST", f"/v2/models/{self.model}/infer", json.dumps({"inputs": [tensor]}))
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(repr(error))
            connection.close()
            return None
        if response.status != 200:
            self.failures.append(f"{response.status} {body}")
            return None
        self.answered += 1
        self.by_version[body["model_version"]] += 1
        logits = body["outputs"][0]["data"]
        self.right.append((time.time(), body["model_version"], logits.index(max(logits)) == label))
        return body["id"]

    def _tell(self, connection: http.client.HTTPConnection, truth: dict[str, int]) -> None:
        try:
            connection.request("POST", f"/v2/models/{self.model}/labels", json.dumps({"labels": truth}))
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()  # a label that is not handed in is no lost request

    def accuracy(self, since: float = 0.0, last: int | None = None) -> float:
        """Of the answers since a time, or of the last so many."""
        right = [r for at, _, r in list(self.right)[-(last or 0) :] if at >= since]
        return sum(right) / len(right) if right else float("nan")

    def switches(self) -> int:
        """How often the answering version changed."""
        return sum(a[1] != b[1] for a, b in pairwise(self.right))

    def stop(self) -> None:
        """Ask no more, and wait for the last answer."""
        self._stopping.set()
        self.join(timeout=60)
