"""tsengine, VictoriaMetrics and Prometheus under the same load, one after the other."""
