"""What the exporter writes to standard error, as text and as JSON."""

import json
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import scrape
from tests.llem_exporter.test_cli import run
from tests.llem_exporter.web.socket_rig import connect
from tests.servers import Exporter, wait_until

TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def lines_of(exporter: Exporter) -> list[dict[str, Any]]:
    """What it has logged as JSON."""
    return [json.loads(line) for line in exporter.log().splitlines()]


def test_each_line_is_an_object(start: StartExporter) -> None:
    """A line has the time (RFC 3339, UTC, milliseconds), level, message, logger and other fields."""
    before = time.time()
    exporter = start("--log.format", "json", "--replay", "demo")
    (line,) = lines_of(exporter)
    assert set(line) == {"ts", "level", "msg", "logger", "url"}
    assert TS.fullmatch(line["ts"])
    assert before - 0.01 <= datetime.fromisoformat(line["ts"]).astimezone(UTC).timestamp() <= time.time()
    assert (line["level"], line["logger"], line["url"]) == (
        "info",
        "llem_exporter.web.addresses",
        exporter.url,
    )
    assert line["msg"] == f"listening on {exporter.url}"


def test_a_scrape_leaves_no_line(start: StartExporter) -> None:
    """Scrapes, rejected requests, garbage, broken connections and SIGHUP without a file log nothing."""
    exporter = start("--log.format", "json", "--replay", "demo", "--log.level", "debug")
    settled = exporter.log()
    for path in ("/metrics", "/history?since=0", "/history", "/none", "/history?scraper=a"):
        exporter.fetch(path)
    for data in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /metrics HTTP/1.1\r\n"):
        with connect(exporter) as client:
            client.sendall(data)
    exporter.process.send_signal(signal.SIGHUP)
    exporter.fetch("/metrics")
    exporter.terminate()
    assert exporter.log() == settled


def test_an_error_at_the_start_is_an_object_too() -> None:
    """An error at the start is one line of JSON. The exit status is 1."""
    done = run("--replay", "/none.csv", "--log.format", "json")
    line = json.loads(done.stderr)
    assert (done.returncode, line["level"]) == (1, "error")
    assert "/none.csv" in line["msg"]


def failed_reads(exporter: Exporter) -> float:
    """How many readings of GPU 1 have failed."""
    page = scrape(exporter)
    errors = page.labels("llem_gpu_read_errors_total", gpu="1")
    return sum(page.value("llem_gpu_read_errors_total", **labels) for labels in errors)


def test_a_lost_gpu_is_a_line_when_it_goes_and_when_it_comes(
    start: StartExporter, driver: FakeDriver
) -> None:
    """The number of failed readings in between does not matter."""
    exporter = start(
        "--log.format", "json", "--no-collector.zeus", "--no-collector.codecarbon", driver=driver
    )
    settled = len(lines_of(exporter))
    driver.gpus[1].lost = True
    wait_until(lambda: len(lines_of(exporter)) > settled, "a line for its loss")
    failures = failed_reads(exporter)
    wait_until(lambda: failed_reads(exporter) >= failures + 3, "more failed reads")
    driver.gpus[1].lost = False
    wait_until(lambda: len(lines_of(exporter)) >= settled + 2, "a line for its return")
    before = scrape(exporter).value("llem_gpu_samples_total", gpu="1")
    wait_until(
        lambda: scrape(exporter).value("llem_gpu_samples_total", gpu="1") >= before + 5, "more samples"
    )
    about = [line["msg"] for line in lines_of(exporter)[settled:] if "GPU 1" in line["msg"]]
    assert len(about) == 2, about


def logged_by(code: str) -> list[dict[str, Any]]:
    """The lines of a program that logs as JSON."""
    begin = (
        "import asyncio, logging, pathlib, threading, warnings\n"
        "from llem_exporter import logs\n"
        "logs.configure('info', 'json')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True, timeout=30, check=False
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_what_others_say_is_json_too() -> None:
    """Warnings, asyncio errors, errors in threads and the fatal error are JSON, with their exceptions."""
    lines = logged_by(
        """
warnings.warn("careful\\nhere")
logging.getLogger("zeus.device").info("not this")
logging.getLogger("aiohttp.server").error("a line\\nand another")
async def fail():
    asyncio.get_running_loop().call_exception_handler({"message": "a loop's", "exception": ValueError("one")})
asyncio.run(fail())
def bad():
    raise ValueError("two")
thread = threading.Thread(target=bad, name="zeus-0")
thread.start()
thread.join()
logging.getLogger("x").warning("%s of %d", "GPU", 7, extra={"gpu": 7, "path": pathlib.Path("/p")})
raise ValueError("three")
"""
    )
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("warning", "py.warnings"),
        ("error", "aiohttp.server"),
        ("error", "asyncio"),
        ("critical", "llem_exporter"),
        ("warning", "x"),
        ("critical", "llem_exporter"),
    ]
    assert "careful\nhere" in lines[0]["msg"]
    for line, error in ((lines[2], "one"), (lines[3], "two"), (lines[5], "three")):
        assert line["exception"].startswith("Traceback") == (error != "one")
        assert line["exception"].endswith(f"ValueError: {error}")
    assert (lines[4]["msg"], lines[4]["gpu"], lines[4]["path"]) == ("GPU of 7", 7, "/p")


def test_text_stays_as_it_was(start: StartExporter) -> None:
    """A text line has the time, the level and the message."""
    exporter = start("--replay", "demo")
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} INFO listening on {exporter.url}\n", exporter.log()
    )
