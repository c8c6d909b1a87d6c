"""The door of gRPC: the Open Inference Protocol v2, asked and answered in its messages."""
