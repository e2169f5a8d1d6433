"""Handlers of the HTTP API: parse, call, encode."""
