"""PromQL text to syntax tree and back. No data, no evaluation."""
