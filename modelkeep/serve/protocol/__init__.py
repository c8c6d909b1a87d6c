"""What both doors speak: tensors and metadata of the Open Inference Protocol v2, keys, addresses, patience."""
