"""Chromium without a window, driven through the pipe of its DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["CHROMIUM", "Browser"]

CHROMIUM: Final = shutil.which("chromium")
"""Path of Chromium; None where it is not installed."""

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)
_TIMEOUT_S: Final = 120


class Browser:
    """A browser with a profile of its own, for a `with` block.

    Args:
        profile: Empty directory.
        hosts: Names that lead to this machine.
    """

    def __init__(self, profile: Path, hosts: tuple[str, ...] = ()) -> None:
        assert CHROMIUM is not None
        rules = ",".join(f"MAP {host} 127.0.0.1" for host in hosts)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4. dash cannot duplicate descriptors above 9.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", CHROMIUM, *_FLAGS,
             f"--user-data-dir={profile}", f"--host-resolver-rules={rules}"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb")
        self._num_sent = 0
        self._unread = b""
        # A browser that does not answer is ended, which ends all reads.
        self._watchdog = threading.Timer(_TIMEOUT_S, self._process.kill)
        self._watchdog.start()

    def run(self, url: str, script: str, *, bypass_csp: bool = False) -> Any:
        """Opens a page in a tab of its own, and runs a script in it.

        Args:
            url: URL of the page.
            script: Body of an asynchronous function.
            bypass_csp: Whether the page's Content-Security-Policy is ignored.

        Returns:
            What the function returns, which JSON can hold.
        """
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable", session)
        self._call("Page.setBypassCSP", session, enabled=bypass_csp)
        self._call("Page.navigate", session, url=url)
        self._read(lambda message: message.get("method") == "Page.loadEventFired" and message["sessionId"] == session)
        expression = f"(async () => {{ {script} }})()"
        result = self._call("Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        self._call("Target.closeTarget", targetId=target)
        return result["result"].get("value")

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._num_sent += 1
        number = self._num_sent
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._out.write(json.dumps(message).encode() + b"\0")
        reply = self._read(lambda message: message.get("id") == number)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def _read(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next wanted message; those before it are dropped."""
        while True:
            while b"\0" not in self._unread:
                data = os.read(self._in.fileno(), 2**16)
                assert data, "the browser has ended"
                self._unread += data
            text, _, self._unread = self._unread.partition(b"\0")
            message: dict[str, Any] = json.loads(text)
            if is_wanted(message):
                return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()  # ends the browser
        self._process.wait(_TIMEOUT_S)
        self._watchdog.cancel()
        self._in.close()
