"""The HTML plot in a real browser: what it shows, its zoom, and that it asks nobody for anything."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.llem_integrator.measured import BEGIN, file_of, two_gpus
from tests.llem_integrator.pages import scraped, trace
from tests.llem_integrator.plot.browser import Page, opened

pytestmark = pytest.mark.full

GAP_COLOUR = [243, 195, 189]


def page_of(source: str, target: Path, *more: str) -> Path:
    """The page of the minute from 30 s on."""
    command = [sys.executable, "-m", "llem_integrator", "--source", source, "--plot", str(target)]
    command += ["--window", f"{BEGIN + 30},+60s", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return target


def shown(path: Path, look: Callable[[Page], Awaitable[Any]]) -> Any:
    """What is seen of a page in Chromium, which had nothing to complain of and fetched nothing."""

    async def run() -> Any:
        async with opened(path, path.parent / "profile") as page:
            seen = await look(page)
            assert page.requested == [path.as_uri()]
            assert page.complaints == []
            return seen

    return asyncio.run(run())


async def pixel(page: Page, row: int, unix_s: float) -> list[int]:
    """The colour near the top of a row's plot, at a time."""
    return list(
        await page.value(
            f"""(() => {{
              const canvas = document.querySelectorAll("canvas")[{row}];
              const from = Number(document.body.dataset.from), to = Number(document.body.dataset.to);
              const x = 44 + ({unix_s} * 1000 - from) / (to - from) * (canvas.clientWidth - 44);
              const ratio = canvas.width / canvas.clientWidth;
              return [...canvas.getContext("2d").getImageData(x * ratio, 2 * ratio, 1, 1).data].slice(0, 3);
            }})()"""
        )
    )


async def state(page: Page) -> tuple[float, float, int]:
    """From, to (seconds after the page's begin) and how many points are drawn, after the next frame."""
    await page.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    body = await page.value("({...document.body.dataset})")
    return float(body["from"]) / 1000 - BEGIN, float(body["to"]) / 1000 - BEGIN, int(body["points"])


def test_the_page_shows_joules_and_gaps(tmp_path: Path) -> None:
    """The page has a caption per GPU, and the gap colour exactly where samples are missing."""

    async def look(page: Page) -> None:
        captions = await page.value(
            "[...document.querySelectorAll('figcaption')].map((one) => one.textContent)"
        )
        assert captions[0].startswith("GPU 0 H100 on n1:9955: 6000.0 J (")
        assert captions[1].startswith("GPU 1 H100 on n1:9955: 15000.0 J (")
        heading = await page.value("document.querySelector('h1').textContent")
        assert heading == "2026-11-24T08:05:30Z to 2026-11-24T08:06:30Z: 21000.0 J in all"
        assert await page.value("document.title") == heading
        assert await pixel(page, 0, BEGIN + 54) == GAP_COLOUR
        assert await pixel(page, 0, BEGIN + 45) != GAP_COLOUR
        assert await pixel(page, 1, BEGIN + 54) != GAP_COLOUR
        start, end, points = await state(page)
        assert (start, end) == pytest.approx((27.6, 92.4))
        assert points > 500

    shown(page_of(two_gpus(tmp_path), tmp_path / "a.html"), look)


def test_zoom(tmp_path: Path) -> None:
    """Dragging, buttons, the wheel and a double click change the range. The URL keeps it."""

    async def look(page: Page) -> None:
        box = await page.value(
            "(() => { const b = document.querySelector('canvas').getBoundingClientRect(); "
            "return [b.left + 44, b.right, b.top + 20]; })()"
        )
        left, right, y = box
        whole = await state(page)
        width = right - left
        await page.drag(left + width / 4, left + width / 2, y)
        start, end, points = await state(page)
        assert (start, end) == pytest.approx((27.6 + 64.8 / 4, 27.6 + 64.8 / 2), abs=0.2)
        assert points < whole[2] / 2
        assert re.fullmatch(r"#\d+\.\d{3},\d+\.\d{3}", await page.value("location.hash"))
        await page.mouse("mouseWheel", (left + right) / 2, y, deltaX=0, deltaY=-100, modifiers=2)
        closer = await state(page)
        assert closer[1] - closer[0] == pytest.approx((end - start) / 1.4)
        await page.value("document.getElementById('out').click()")
        wider = await state(page)
        assert wider[1] - wider[0] == pytest.approx(2 * (closer[1] - closer[0]))
        await page.value("document.getElementById('in').click()")
        assert (await state(page))[:2] == pytest.approx(closer[:2])
        for count in (1, 2):
            await page.mouse("mousePressed", left + 100, y, button="left", clickCount=count)
            await page.mouse("mouseReleased", left + 100, y, button="left", clickCount=count)
        assert await state(page) == whole
        await page.mouse("mouseMoved", (left + right) / 2, y)
        assert "100.0 W" in await page.value("document.getElementById('under').textContent")
        await page.value(f"location.hash = '#{BEGIN + 40},{BEGIN + 50}'")
        assert (await state(page))[:2] == pytest.approx((40, 50))

    shown(page_of(two_gpus(tmp_path), tmp_path / "a.html"), look)


def test_64_gpus_are_64_rows(tmp_path: Path) -> None:
    """Every GPU has its own row and gap."""
    parts = [trace(gpu, [(ms, 100.0 + gpu) for ms in range(0, 120_000, 500)]) for gpu in range(63)]
    parts.append(trace(63, [(ms, 90.0) for ms in range(0, 120_000, 500) if not 60_000 < ms < 70_000]))
    source = file_of(tmp_path, *parts, *(scraped(gpu) for gpu in range(64)))

    async def look(page: Page) -> None:
        assert await page.value("document.querySelectorAll('canvas').length") == 64
        assert await pixel(page, 63, BEGIN + 65) == GAP_COLOUR
        assert await pixel(page, 62, BEGIN + 65) != GAP_COLOUR

    shown(page_of(source, tmp_path / "a.html", "--backend", "zeus"), look)


def test_names_are_text(tmp_path: Path) -> None:
    """A job name that looks like markup is shown as text."""
    jobs = tmp_path / "jobs.csv"
    name = "</script><img src=x onerror=alert(1)>"
    jobs.write_text(f"name,start,end\n{name},{BEGIN + 30},+30s\n")

    async def look(page: Page) -> None:
        title = await page.value("document.querySelector('h1').textContent")
        assert title.startswith("2 windows from")
        assert (
            await page.value("JSON.parse(document.getElementById('data').textContent).windows[1][2]") == name
        )
        assert await page.value("document.querySelectorAll('img').length") == 0

    shown(page_of(two_gpus(tmp_path), tmp_path / "a.html", "--windows", str(jobs)), look)
