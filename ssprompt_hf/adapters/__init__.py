"""Adapters as files: found, fetched, read, written, described."""
