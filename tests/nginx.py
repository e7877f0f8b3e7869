"""A real nginx for tests, with deploy/proxy/nginx.conf."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.certificates import Authority

__all__ = ["CONFIG", "Nginx", "directives", "find_nginx"]

CONFIG: Final = Path(__file__).parents[1] / "deploy" / "proxy" / "nginx.conf"
_NAME: Final = "fovea.example.org"
_TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
"""Kinds of folders that nginx makes at its start."""


def find_nginx() -> str | None:
    """Path of an nginx binary; None if there is none on this machine."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")


def directives(name: str) -> list[str]:
    """Arguments of each directive `name` of the configuration, in the order of the file."""
    return re.findall(rf"^\s*{re.escape(name)}\s+([^;]*);", CONFIG.read_text(), re.M)


class Nginx:
    """nginx with the shipped configuration on a free loopback port; stops with the `with` block.

    Its name, its paths, its port, its user and its gateways are replaced, and nothing else but `changes`.

    Args:
        folder: empty folder for its files.
        *gateways: host:port of each gateway.
        changes: further replacements, each a line's text and the new one.

    Attributes:
        port: port of HTTPS.
        trust: context of clients that trust the certificate.
    """

    host: Final = "localhost"

    def __init__(self, folder: Path, *gateways: str, changes: Sequence[tuple[str, str]] = ()) -> None:
        binary = find_nginx()
        if binary is None:
            raise FileNotFoundError("no nginx is installed; Debian's package is nginx-light")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        authority = Authority(folder)
        files = authority.issue("proxy", self.host)
        self.trust = ssl.create_default_context(cafile=authority.ca)
        for name in ("lib", "log"):
            (folder / name).mkdir()
        servers = "\n".join(f"server {address} max_fails=1 fail_timeout=5s;" for address in gateways)
        others = "".join(f"{kind}_temp_path {folder}/lib/{kind};" for kind in _TEMPORARY)
        text = CONFIG.read_text()
        for old, new in [
            ("user www-data;", f"user {getpass.getuser()};"),
            ("/run/nginx.pid", str(folder / "pid")),
            ("/var/log/nginx/", f"{folder}/log/"),
            ("/etc/fovea/proxy/fullchain.pem", files.cert),
            ("/etc/fovea/proxy/privkey.pem", files.key),
            ("listen 443", f"listen 127.0.0.1:{self.port}"),
            ("listen [::]:443", f"listen 127.0.0.2:{self.port}"),  # a machine may have no IPv6
            ("server 127.0.0.1:8000 max_fails=1 fail_timeout=5s;", servers),
            (_NAME, self.host),
            ("http {", f"http {{ {others}"),  # here, where any user may
            *changes,
        ]:
            assert old in text, old
            text = text.replace(old, new)
        config = folder / "nginx.conf"
        config.write_text(text)
        self._log = folder / "log"
        self._errors = folder / "errors"
        self._command = [binary, "-c", str(config), "-e", str(self._errors), "-g", "daemon off;"]

    @property
    def url(self) -> str:
        """Base URL."""
        return f"https://{self.host}:{self.port}"

    def requests(self) -> list[dict[str, str]]:
        """Lines of the access log. Stops nginx first, since a line may be written after its response has arrived."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        return [json.loads(line) for line in (self._log / "access.log").read_text().splitlines()]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 10
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"nginx did not start: {self._errors.read_text() if self._errors.exists() else ''}")
        return self

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=0.5).close()
            return True
        except OSError:
            time.sleep(0.01)
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._process.terminate()
        self._process.communicate()
