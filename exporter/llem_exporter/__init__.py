"""The Prometheus exporter: samples GPU power on a 100 ms grid, integrates it, publishes both."""
