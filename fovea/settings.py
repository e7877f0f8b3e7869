"""Settings that are flags and environment variables at once, described where they are declared."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from typing import Any, Final, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from fovea.rpc.tls import ServerTLS

__all__ = ["GrpcSettings", "ServiceSettings", "settings_config"]

# Kubernetes tells every pod where the services of its namespace are, under their names: LLM_SERVICE_HOST,
# LLM_PORT_50052_TCP_ADDR, unless the pod says enableServiceLinks: false.
_FROM_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
# What --help calls values that pydantic names by their Python type; ranges of values stand in the descriptions.
_VALUES: Final = {"int": "N", "float": "NUMBER", "str": "TEXT", "SecretStr": "TEXT", "tuple[str,...]": "TEXT,..."}
_NO_DEFAULT: Final = re.compile(r" \(default: (None|\(\)|\**)?\)$")


def settings_config(prog: str, env_prefix: str) -> SettingsConfigDict:
    """Configuration of a service's settings class: `--some-flag` and `<PREFIX>SOME_FLAG` for every field."""
    return SettingsConfigDict(
        env_prefix=env_prefix,
        cli_prog_name=prog,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _add_argument(parser: argparse.ArgumentParser, *names: str, **options: Any) -> argparse.Action:
    """As argparse does it, for readers of --help who need not know Python."""
    if "metavar" in options:
        options["metavar"] = _VALUES.get(options["metavar"], options["metavar"])
    options["help"] = _NO_DEFAULT.sub("", options["help"])
    return parser.add_argument(*names, **options)


class ServiceSettings(BaseSettings):
    """Base of the three services' settings. A flag wins over an environment variable, which wins over the default."""

    @classmethod
    def from_command_line(cls, argv: list[str]) -> Self:
        """Reads flags and environment; on a mistake prints what is wrong with which setting and exits with status 2."""
        cls._refuse_misspelled_environment()
        try:
            flags: CliSettingsSource[Any] = CliSettingsSource(
                cls, cli_parse_args=argv, add_argument_method=_add_argument
            )
            return cls(_cli_settings_source=flags)
        except ValidationError as error:
            prog = cls.model_config.get("cli_prog_name")
            for item in error.errors():
                name = ".".join(str(part) for part in item["loc"])
                variable = f"{cls.model_config.get('env_prefix')}{name}".upper()
                print(f"{prog}: --{name.replace('_', '-')} ({variable}): {item['msg']}", file=sys.stderr)
            raise SystemExit(2) from None
        except SettingsError as error:  # of a value that is to be JSON and is none
            print(f"{cls.model_config.get('cli_prog_name')}: {error}; a JSON object is accepted", file=sys.stderr)
            raise SystemExit(2) from None

    @classmethod
    def _refuse_misspelled_environment(cls) -> None:
        """A misspelled variable ignored in silence costs somebody an evening; a foreign one is only mentioned."""
        prog, prefix = cls.model_config.get("cli_prog_name"), cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        for name in sorted(os.environ):
            if not name.startswith(prefix) or name in known or _FROM_KUBERNETES.search(name):
                continue
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near:
                print(f"{prog}: unknown setting {name}; did you mean {near[0]}?", file=sys.stderr)
                raise SystemExit(2)
            print(f"{prog}: {name} is no setting and is ignored; --help lists those that exist", file=sys.stderr)

    def describe(self) -> str:
        """All settings as one JSON line for the log, secrets masked."""

        def shown(value: Any) -> Any:
            return "***" if isinstance(value, SecretStr) and value.get_secret_value() else value

        return json.dumps({name: shown(getattr(self, name)) for name in type(self).model_fields}, default=str)


class GrpcSettings(ServiceSettings):
    """Who may call a gRPC service, for how long at a stretch, and how much memory calls get. All files are read again
    when they change."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    tls_cert: str = ""
    """PEM file with the server's certificate and its chain. Empty: no TLS, for loopback, or behind a proxy that has
    it."""

    tls_key: str = Field("", validate_default=True)
    """PEM file with the private key of --tls-cert, not encrypted."""

    tls_client_ca: str = Field("", validate_default=True)
    """PEM file with the CA of the clients: mutual TLS, nobody connects without a certificate of it. Empty: anybody may
    connect."""

    token_file: str = ""
    """File of lines SITE=SHA256: every call but health checks must bring the token of a site, or is refused with
    UNAUTHENTICATED. `python -m fovea.rpc.bearer_tokens SITE` makes a token and its line. Turns reflection off. Empty:
    no tokens."""

    max_connection_age_s: float = Field(300.0, ge=1)
    """When clients are asked to connect anew, which is how they find replicas that were added, and show a certificate
    that was renewed. Calls under way go on until their own deadlines. Less where replicas come and go often, more over
    a slow link."""

    max_bytes_in_flight: int = Field(2**30, ge=2**20)
    """Memory for the messages of all calls under way and, in the LLM service, for the visual tokens read from them.
    Beyond it calls are refused with RESOURCE_EXHAUSTED and a time to come back. A call that is alone is let in
    whatever its size. What gRPC has received of messages that are not whole yet comes on top: at most
    --max-message-bytes times --max-concurrent-rpcs."""

    @field_validator("tls_key")
    @classmethod
    def _with_certificate(cls, value: str, info: ValidationInfo) -> str:
        if bool(value) != bool(info.data.get("tls_cert")):
            raise ValueError("--tls-cert and --tls-key go together; one of them is missing")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _with_tls(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("tls_cert"):
            raise ValueError("clients show certificates over TLS only; give --tls-cert and --tls-key as well")
        return value

    @property
    def tls(self) -> ServerTLS | None:
        """The server's files; None without TLS."""
        return ServerTLS(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert else None
