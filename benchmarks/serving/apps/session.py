"""The model that every peer serves: an ONNX file named by MODEL, on ONNX Runtime with one thread."""

import os

import onnxruntime


def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
