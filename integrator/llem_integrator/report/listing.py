"""The output of --list: what a source contains."""

import json
from dataclasses import asdict
from typing import IO, Any

from llem_integrator.contents import Contents
from llem_integrator.report import printable
from llem_integrator.windows.window import rfc3339


def write(contents: Contents | None, source: str, form: str, out: IO[str]) -> None:
    """Write lines for people, or a JSON document. Contents are None if nothing matches."""
    if form == "json":
        out.write(json.dumps(_document(contents, source)) + "\n")
        return
    lines = [f"{source} contains no metrics of llem-exporter, or none that match"]
    if contents is not None:
        lines = [f"samples from {rfc3339(contents.first_ms * 1000)} to {rfc3339(contents.last_ms * 1000)}"]
        lines += [f"GPU {gpu.gpu or '-'}  {gpu.uuid}  {gpu.instance}".rstrip() for gpu in contents.gpus]
        lines += [*contents.metrics, *(f"missing: {name}" for name in contents.missing)]
    out.writelines(f"{printable(line)}\n" for line in lines)


def _document(contents: Contents | None, source: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "source": source,
        "first": None if contents is None else contents.first_ms / 1000,
        "last": None if contents is None else contents.last_ms / 1000,
        "gpus": [] if contents is None else [asdict(gpu) for gpu in contents.gpus],
        "metrics": [] if contents is None else contents.metrics,
        "missing": [] if contents is None else contents.missing,
    }
