"""The way of a request to a version's workers and back: bounded, routed, queued, joined."""
