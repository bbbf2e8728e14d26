"""What the exporter and the integrator share: energy between samples, backends, metrics and errors.

Standard library only; no I/O and no clock.
"""

__version__ = "0.1.0"
