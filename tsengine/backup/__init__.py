"""Backups in a directory or an object store: making, pruning, checking, restoring."""
