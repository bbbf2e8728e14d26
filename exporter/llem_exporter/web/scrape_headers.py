"""What a scraper asks for in its headers: a format, an encoding and a time limit."""

from collections.abc import Callable, Mapping

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

Encoder = Callable[[Collector], bytes]


def encoder_for(headers: Mapping[str, str]) -> tuple[Encoder, str]:
    """Return the encoder of a registry and its Content-Type. A malformed Accept header gets text 0.0.4."""
    try:
        return choose_encoder(headers.get("Accept", ""))
    except (ValueError, TypeError):  # raised for a version that is not a number
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return the scrape timeout that Prometheus sends. It is at most the scrape interval."""
    try:
        sent_s = float(headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return None
    return sent_s if 0 < sent_s < 86_400 else None
