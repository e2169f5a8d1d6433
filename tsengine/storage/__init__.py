"""Log, head, catalog, parts, compaction. Arrays in, frames out."""
