"""Which of the GPUs in a window are selected, and which of those that a job had are missing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from llem_core.errors import ConfigError
from llem_integrator.energy.identity import Identity
from llem_integrator.results.request import Request
from llem_integrator.windows.hosts import Hosts
from llem_integrator.windows.window import Window

_SHORTEST_UUID = len("GPU-12345678")


class Selection(NamedTuple):
    """What selects the GPUs of a window: indices, UUIDs or starts of UUIDs, and what is known of its job."""

    tokens: tuple[str, ...]
    gpu_count: int | None
    hosts: Hosts | None
    gpus_unknown: str | None

    def selects(self, uuid: str, identity: Identity) -> bool:
        return not self.tokens or any(_matches(token, uuid, identity) for token in self.tokens)

    def check(self, uuids: Collection[str]) -> None:
        """Raise ConfigError if a token is the start of several UUIDs."""
        for token in self.tokens:
            matches = sorted(uuid for uuid in uuids if uuid.startswith(token))
            if len(matches) > 1 and token not in uuids and not token.isdecimal():
                raise ConfigError(f"--gpus: {token!r} matches several GPUs: {', '.join(matches)}")

    def missing(self, gpus: Mapping[str, Identity]) -> list[str]:
        """Return a text for each thing that was selected and is not among the GPUs of the window."""
        texts = [
            f"{f'GPU {token}' if token.isdecimal() else token} has no samples in the window"
            for token in self.tokens
            if not any(_matches(token, uuid, identity) for uuid, identity in gpus.items())
        ]
        if unseen := self.unseen_hosts(gpus):
            texts.append(f"no samples of {_listed(unseen)} in the window (check --node-label)")
        return texts

    def unseen_hosts(self, gpus: Mapping[str, Identity]) -> list[str]:
        """Return the hosts of the job that show no GPU."""
        if self.hosts is None:
            return []
        return self.hosts.unseen(labels for identity in gpus.values() for labels in identity.every)

    def why_unknown(self, gpus: Mapping[str, Identity]) -> str | None:
        """Return why nobody knows which of the GPUs the job had, or None if that is known."""
        if self.gpus_unknown is not None or self.gpu_count is None:
            return self.gpus_unknown
        # If a host shows no GPU, as many GPUs as the job had are not those that it had.
        unseen = self.unseen_hosts(gpus)
        if len(gpus) < self.gpu_count + (not unseen):
            return None
        if unseen:
            return (
                f"the source has no GPU of {_listed(unseen)}, so the job's GPUs cannot be distinguished "
                "(check --node-label and --match)"
            )
        return (
            f"the job had {self.gpu_count} of the {len(gpus)} GPUs of its hosts; sacct does not say which "
            "(use --job, which needs llem_gpu_job_info, or --window with --gpus)"
        )


def selection_of(window: Window, request: Request) -> Selection:
    """Return what selects the GPUs of a window; its own GPUs come before those of the request."""
    tokens = request.gpus if window.gpus is None else window.gpus
    return Selection(tokens, window.gpu_count, window.hosts, window.gpus_unknown)


def short_uuids(uuids: Iterable[str]) -> dict[str, str]:
    """Return the start of each UUID, as long as needed to tell them apart. --gpus accepts it."""
    unique, length = set(uuids), _SHORTEST_UUID
    while len({uuid[:length] for uuid in unique}) < len(unique):
        length += 1
    return {uuid: uuid[:length] for uuid in unique}


def _listed(hosts: Sequence[str]) -> str:
    more = len(hosts) - 1
    return hosts[0] + (f" and {more} more host{'s' if more > 1 else ''}" if more else "")


def _matches(token: str, uuid: str, identity: Identity) -> bool:
    """Return whether a token is the index of a GPU, or its UUID or the start of that."""
    by_uuid = not token.isdecimal() and uuid.startswith(token)
    return by_uuid or identity.labels.get("gpu") == token
