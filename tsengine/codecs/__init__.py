"""Bytes to arrays and back: blocks of values, time axes, framed records. No files."""
