"""The format and the encoding that a request accepts."""

from collections.abc import Callable, Mapping

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

Encoder = Callable[[Collector], bytes]


def encoder_for(headers: Mapping[str, str]) -> tuple[Encoder, str]:
    """The encoder of a registry and its Content-Type; text 0.0.4 if the Accept header is malformed."""
    try:
        return choose_encoder(headers.get("Accept", ""))
    except (ValueError, TypeError):  # raised for a version that is not a number
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def gzip_accepted(headers: Mapping[str, str]) -> bool:
    """Whether Accept-Encoding names gzip with a weight above 0. Source: RFC 9110, 12.5.3."""
    for entry in headers.get("Accept-Encoding", "").lower().replace(" ", "").split(","):
        name, _, weight = entry.partition(";q=")
        if name == "gzip":
            return not weight or weight.strip("0.") != ""
    return False
