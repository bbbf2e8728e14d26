"""Coverage-guided fuzzing of one target, by atheris.

python -m tests.fuzz.run TARGET [--seconds 60] [--runs N] [--corpus DIR]

It ends with status 0 after that many seconds or inputs. If an input makes the target fail, it prints the
failure and the input, and ends with another status. --corpus keeps the inputs that reach new code.
"""

import argparse
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

import atheris

INSTRUMENTED = ["llem_core", "llem_exporter", "llem_integrator"]
LONGEST_INPUT = 8192
ONE_INPUT_SECONDS = 30


def import_all(package: str) -> None:
    """Import its modules now, so that those are instrumented that it imports only as it runs."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", help="as integrator.prometheus or exporter.replay")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="number of inputs; by default unlimited")
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    program, _, name = options.target.partition(".")
    with atheris.instrument_imports(include=INSTRUMENTED):
        if program != "exporter":
            import_all("llem_integrator")
        target = importlib.import_module(f"tests.fuzz.{program}_targets").TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="llem-fuzz-") as directory:
        corpus = options.corpus or Path(directory) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        arguments = [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={options.seconds}",
            f"-runs={options.runs}",
            f"-max_len={LONGEST_INPUT}",
            f"-timeout={ONE_INPUT_SECONDS}",
            f"-artifact_prefix={directory}/",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ]
        atheris.Setup(arguments, target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
