"""The limits of deploy/proxy/nginx.conf fit those of the gateway behind it. tests/e2e/test_proxy.py runs the file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from tests.certificates import Authority
from tests.nginx import CONFIG, directives, find_nginx

SETTINGS = GatewaySettings(model="m")


def seconds(name: str) -> list[float]:
    return [float(value.removesuffix("s")) for value in directives(name)]


def test_the_proxy_takes_bodies_as_large_as_the_gateway_does() -> None:
    assert directives("client_max_body_size") == [f"{SETTINGS.max_body_bytes // 2**20}m", "0"]


def test_the_proxy_waits_longer_than_any_request_may_take() -> None:
    assert seconds("proxy_read_timeout")[0] > SETTINGS.max_timeout_s
    assert seconds("worker_shutdown_timeout")[0] > seconds("proxy_read_timeout")[0]


def test_idle_connections_are_closed_by_the_proxy_first() -> None:
    _, upstream = sorted(seconds("keepalive_timeout"), reverse=True)
    assert upstream < SETTINGS.keep_alive_s


@pytest.mark.skipif(find_nginx() is None, reason="no nginx is installed; Debian's package is nginx-light")
def test_nginx_finds_no_fault_where_its_package_keeps_its_files(tmp_path: Path) -> None:
    """Folders of temporary files stay those of the package: a server that names one again ends nginx at its start."""
    files = Authority(tmp_path).issue("proxy", "fovea.example.org")
    text = CONFIG.read_text()
    for old, new in [
        ("/etc/fovea/proxy/fullchain.pem", files.cert),
        ("/etc/fovea/proxy/privkey.pem", files.key),
        ("/run/nginx.pid", str(tmp_path / "pid")),
        ("/var/log/nginx/", f"{tmp_path}/"),
    ]:
        assert old in text
        text = text.replace(old, new)
    config = tmp_path / "nginx.conf"
    config.write_text(text)
    command = [find_nginx(), "-t", "-c", str(config), "-e", str(tmp_path / "errors")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
