"""A headless Chromium, driven by its DevTools protocol."""

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.servers import program

_TIMEOUT_S = 60.0


class Page:
    """One page: commands and their answers, and every URL that it has asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self._socket = socket
        self._number = 0

    async def send(self, method: str, **params: Any) -> Any:
        """The result of a command; what happens until then is noted."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            said = json.loads(await self._socket.receive_str(timeout=_TIMEOUT_S))
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            match said.get("method"):
                case "Network.requestWillBeSent":
                    self.requested.append(said["params"]["request"]["url"])
                case "Runtime.exceptionThrown":
                    self.complaints.append(json.dumps(said["params"]))
                case "Log.entryAdded" if said["params"]["entry"]["level"] == "error":
                    self.complaints.append(json.dumps(said["params"]))

    async def value(self, expression: str) -> Any:
        """What an expression gives in the page."""
        given = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    async def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    async def drag(self, x: float, to_x: float, y: float) -> None:
        await self.mouse("mousePressed", x, y, button="left", clickCount=1)
        await self.mouse("mouseMoved", (x + to_x) / 2, y, button="left")
        await self.mouse("mouseMoved", to_x, y, button="left")
        await self.mouse("mouseReleased", to_x, y, button="left", clickCount=1)


@asynccontextmanager
async def opened(page: Path, profile: Path) -> AsyncIterator[Page]:
    """A Chromium that shows a file, and reaches no other host."""
    command = [program("chromium", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1200,800"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "about:blank"]
    log = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            port = await _port(profile, process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
                (target,) = (one for one in json.load(answer) if one["type"] == "page")
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=2**27) as socket,
            ):
                shown = Page(socket)
                for domain in ("Network", "Runtime", "Log", "Page"):
                    await shown.send(f"{domain}.enable")
                await shown.send("Page.navigate", url=page.as_uri())
                for _ in range(int(_TIMEOUT_S / 0.05)):
                    if await shown.value("document.body?.dataset.points || ''"):
                        break
                    await asyncio.sleep(0.05)
                yield shown
        finally:
            process.terminate()
            process.wait(timeout=20)


async def _port(profile: Path, process: "subprocess.Popen[bytes]") -> int:
    """The port of DevTools, which Chromium writes into its profile."""
    file = profile / "DevToolsActivePort"
    for _ in range(int(_TIMEOUT_S / 0.05)):
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        assert process.poll() is None, f"chromium ended with {process.returncode}"
        await asyncio.sleep(0.05)
    raise AssertionError(f"chromium was not ready after {_TIMEOUT_S:.0f} s")
