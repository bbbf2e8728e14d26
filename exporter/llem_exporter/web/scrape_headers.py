"""What a scraper asks for in its headers: a format, an encoding and a time limit."""

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import hdrs
from prometheus_client.exposition import (
    CONTENT_TYPE_PLAIN_0_0_4,
    choose_encoder,
    generate_latest,
    gzip_accepted,
)
from prometheus_client.registry import Collector

GZIP_LEVEL: Final = 1

Encoder = Callable[[Collector], bytes]


def negotiated(headers: Mapping[str, str]) -> tuple[Encoder, dict[str, str]]:
    """Return the encoder of a registry, and the headers of the response: its type, and gzip if accepted.

    A malformed Accept header gets text 0.0.4.
    """
    try:
        encoder, content_type = choose_encoder(headers.get(hdrs.ACCEPT, ""))
    except (ValueError, TypeError):  # raised for a version that is not a number
        encoder, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    answered: dict[str, str] = {hdrs.CONTENT_TYPE: content_type}
    if gzip_accepted(headers.get(hdrs.ACCEPT_ENCODING, "")):
        answered[hdrs.CONTENT_ENCODING] = "gzip"
    return encoder, answered


def timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return the scrape timeout that Prometheus sends. It is at most the scrape interval."""
    try:
        sent_s = float(headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return None
    return sent_s if 0 < sent_s < 86_400 else None
