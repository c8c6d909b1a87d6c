"""Rows: datasets from files, captured requests, and truth that comes late."""
