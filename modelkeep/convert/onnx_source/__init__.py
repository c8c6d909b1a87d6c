"""An ONNX graph written as PyTorch source: read (graph), its layers found (layers), its operators written (write)."""
