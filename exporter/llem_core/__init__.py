"""What the exporter and the integrator share: the rule, the backends' order, the metrics, the errors.

Standard library only; no I/O and no clock.
"""

__version__ = "0.1.0"
