"""Answer for models: one path from a request to its reply, bounded, batched, and stamped with its version."""
