"""PromQL on columns: plan, operators, engine. Reads samples through `source`."""
