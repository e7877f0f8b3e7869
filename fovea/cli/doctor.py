"""`fovea doctor`: checks of this machine and of a gateway, and what to do about what is wrong."""

from __future__ import annotations

import argparse
import os

from fovea.cli.config_file import service_environment
from fovea.cli.options import add_api_key
from fovea.cli.parsing import Commands
from fovea.cli.terminal import write_json
from fovea.cli.values import listen, url
from fovea.doctor import machine, network
from fovea.doctor.finding import Finding, Level
from fovea.doctor.redis import redis
from fovea.processes.stack import local_url

__all__ = ["add"]

_MARKS = {Level.OK: "ok", Level.WARNING: "note", Level.PROBLEM: "WRONG"}


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "doctor",
        help="check ports, Redis, checkpoint, versions, GPU and clock, and say what to do",
        description="Checks what fovea up needs on this machine, and a gateway if one runs: versions, GPU, checkpoint,"
        " port, Redis, and the clock. Changes nothing. Exit status 1 if anything is wrong. The options of [up] in the"
        " file of --config apply here too.",
        usage="%(prog)s [options]",
    )
    parser.add_argument("--model", help="checkpoint directory or hub id (default: the shipped small model)")
    parser.add_argument(
        "--listen",
        type=listen,
        default="127.0.0.1:8000",
        metavar="HOST:PORT",
        help="address that fovea up would take (default: %(default)s)",
    )
    parser.add_argument(
        "--redis-url",
        default=os.environ.get("GATEWAY_REDIS_URL") or None,
        metavar="URL",
        help="Redis to check; also the variable GATEWAY_REDIS_URL. GATEWAY_REDIS_PASSWORD_FILE and"
        " GATEWAY_REDIS_TLS_CA apply to it (default: none)",
    )
    parser.add_argument(
        "--url",
        type=url,
        default=os.environ.get("FOVEA_URL") or None,
        help="gateway to check; also the variable FOVEA_URL (default: the one at --listen)",
    )
    add_api_key(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    of_gateway = {**service_environment(args.config), **os.environ}  # what fovea up hands to it
    named = args.url or local_url(args.listen, tls=bool(of_gateway.get("GATEWAY_TLS_CERT")))
    url = network.spoken_url(named)
    findings = [
        *machine.versions(),
        machine.entropy_coder(),
        machine.video(),
        machine.gpu(),
        machine.checkpoint(args.model),
        network.port(args.listen, url),
        redis(
            args.redis_url or of_gateway.get("GATEWAY_REDIS_URL"),
            password_file=of_gateway.get("GATEWAY_REDIS_PASSWORD_FILE", ""),
            tls_ca=of_gateway.get("GATEWAY_REDIS_TLS_CA", ""),
        ),
        *network.gateway(url, args.api_key),
    ]
    if url != named:
        findings.append(Finding("scheme", Level.WARNING, f"the gateway speaks https, not http; use {url}"))
    if args.json:
        write_json([finding.as_json() for finding in findings])
    else:
        for finding in findings:
            _print(finding)
    return 1 if any(finding.level is Level.PROBLEM for finding in findings) else 0


def _print(finding: Finding) -> None:
    print(f"{_MARKS[finding.level]:<5}  {finding.subject:<11}  {finding.text}")
    if finding.advice:
        print(f"{'':<20}{finding.advice}")
