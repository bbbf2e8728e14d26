"""The Prometheus exporter: samples GPU power every 100 ms, integrates it, and publishes both."""
