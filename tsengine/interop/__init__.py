"""Formats and libraries of other people: OpenMetrics, Parquet, Arrow, pandas."""
