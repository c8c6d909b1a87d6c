"""PyTriton, which is NVIDIA's Triton with the model in a Python process; Triton's own dynamic batching."""

import os

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from session import session

model = session()


@batch
def predict(x):
    return [model.run(None, {"x": x})[0]]


wide = model.get_inputs()[0].shape[1]
port = int(os.environ["PORT"])
config = TritonConfig(http_address="127.0.0.1", http_port=port, grpc_port=port + 1, allow_metrics=False, log_verbose=0)
with Triton(config=config) as triton:
    triton.bind(
        model_name="mlp",
        infer_func=predict,
        inputs=[Tensor(name="x", dtype=np.float32, shape=(wide,))],
        outputs=[Tensor(name="y", dtype=np.float32, shape=(10,))],
        config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
    )
    triton.serve()
