"""BentoML with its adaptive batching: `bentoml serve with_bentoml:Model`."""

import bentoml
import numpy as np
from session import session


@bentoml.service(workers=1, traffic={"timeout": 30})
class Model:
    def __init__(self) -> None:
        self.model = session()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.run(None, {"x": rows.astype(np.float32)})[0]
