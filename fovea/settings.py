"""Settings of a service: each is a command-line flag and an environment variable, with its docstring as --help."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliSettingsSource, NoDecode, SettingsConfigDict, SettingsError

from fovea.budget import Budget
from fovea.rpc.server import split_address
from fovea.rpc.tls import ServerTLS
from fovea.settings_errors import flags_text, value_text
from fovea.similar_names import similar_name

__all__ = [
    "CommaSeparated",
    "GrpcSettings",
    "HostAndPort",
    "KeepRatio",
    "LogLevel",
    "ModelSettings",
    "OptionalHostAndPort",
    "PrivateKeyFile",
    "ServiceSettings",
    "settings_config",
]

# Kubernetes sets variables with the addresses of all services of a namespace, such as LLM_SERVICE_HOST and
# LLM_PORT_50052_TCP_ADDR, in every pod without enableServiceLinks: false.
_FROM_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
# A name such as LLM_PORT has a URL there, tcp://10.0.0.1:50052. A number is what a user wrote.
_PORT_OF_A_USER = re.compile(r"[A-Z]+_PORT=\d+")
# Names of values in --help, where pydantic would show their Python types. The descriptions have the ranges.
_VALUES: Final = {
    "int": "N",
    "float": "NUMBER",
    "str": "TEXT",
    "SecretStr": "TEXT",
    "tuple[str,...]": "TEXT,...",
    "list[str]": "TEXT",
}
# Settings in place of names that other programs or requests have, whose spelling is nearer to that of another setting.
_KEYS: Final = ("keys_file", "a file of API keys, which fovea keys add NAME makes")
_MEANT: Final = {
    "api_key": _KEYS,
    "auth_token": _KEYS,
    "ssl_certfile": ("tls_cert", "a PEM file with the certificate"),
    "ssl_keyfile": ("tls_key", "a PEM file with the private key"),
    "allowed_origins": ("cors_origins", "the origins whose pages may send requests"),
    "keep_tokens": ("keep_ratio", "a share of the tokens in (0, 1]; each request may give keep_tokens"),
    "gpu": ("", ""),  # no setting: deploy/gpu/compose.yml reads it
}
_NO_DEFAULT: Final = re.compile(r" \(default(: (None|\(\)|\**)?| factory: list)\)$")


def _ratio_of_a_budget(value: float) -> float:
    Budget.ratio(value)
    return value


KeepRatio = Annotated[float, AfterValidator(_ratio_of_a_budget)]
"""Share of visual tokens to keep, in (0, 1]."""


def _address(value: str) -> str:
    split_address(value)
    return value


HostAndPort = Annotated[str, AfterValidator(_address)]
"""Address as host:port."""
OptionalHostAndPort = Annotated[str, AfterValidator(lambda value: value and _address(value))]
"""Address as host:port; may be empty."""


def _split_at_commas(value: Any) -> list[str]:
    parts = [value] if isinstance(value, str) else value
    return [item.strip() for part in parts for item in str(part).split(",") if item.strip()]


_Items = TypeVar("_Items")
CommaSeparated = Annotated[_Items, NoDecode, BeforeValidator(_split_at_commas)]
"""Several texts, separated by commas or given by several flags; empty ones are left out."""


def _goes_with_certificate(value: str, info: ValidationInfo) -> str:
    if bool(value) != bool(info.data.get("tls_cert")):
        raise ValueError("--tls-cert and --tls-key go together; one of them is missing")
    return value


PrivateKeyFile = Annotated[str, AfterValidator(_goes_with_certificate)]
"""File with the private key of the field `tls_cert`, which must stand before it; empty exactly if that is empty."""

LogLevel = Literal["debug", "info", "warning", "error"]
"""Lowest level of log lines that are written."""


def settings_config(prog: str, env_prefix: str) -> SettingsConfigDict:
    """Configuration of a settings class: every field is the flag `--some-flag` and the variable `<PREFIX>SOME_FLAG`.

    Args:
        prog: name of the program in --help and messages.
        env_prefix: prefix of the environment variables.
    """
    return SettingsConfigDict(
        env_prefix=env_prefix,
        cli_prog_name=prog,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,  # argparse would print dozens of lines of usage before the one that matters
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _is_from_kubernetes(name: str, value: str) -> bool:
    return bool(_FROM_KUBERNETES.search(name)) and not _PORT_OF_A_USER.fullmatch(f"{name}={value}")


def _add_argument(parser: argparse.ArgumentParser, *names: str, **options: Any) -> argparse.Action:
    """`add_argument` of argparse with names of values and defaults that need no knowledge of Python."""
    if "metavar" in options:
        options["metavar"] = _VALUES.get(options["metavar"], options["metavar"])
    options["help"] = _NO_DEFAULT.sub("", options["help"])
    return parser.add_argument(*names, **options)


class ServiceSettings(BaseSettings):
    """Base of the services' settings. A flag overrides the environment variable, which overrides the default."""

    @classmethod
    def from_command_line(cls, argv: list[str]) -> Self:
        """Settings from flags and environment. A wrong setting is printed, and the process exits with status 2.

        Args:
            argv: arguments of the command line, without the program.
        """
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
                print(f"{prog}: --{name.replace('_', '-')} ({variable}): {value_text(item)}", file=sys.stderr)
            raise SystemExit(2) from None
        except SettingsError as error:
            print(f"{cls.model_config.get('cli_prog_name')}: {flags_text(error, cls.model_fields)}", file=sys.stderr)
            raise SystemExit(2) from None

    @classmethod
    def _refuse_misspelled_environment(cls) -> None:
        """Exits with status 2 on a variable that resembles a setting; other unknown variables are only reported."""
        prog = cls.model_config.get("cli_prog_name")
        for name, meant in cls.unknown_variables(os.environ).items():
            if meant:
                print(f"{prog}: unknown setting {name}; {meant}", file=sys.stderr)
                raise SystemExit(2)
            print(f"{prog}: {name} is not a setting and is ignored; --help lists all settings", file=sys.stderr)

    @classmethod
    def unknown_variables(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Variables with the prefix of these settings that are none of them, without those that Kubernetes sets.

        Args:
            environment: variables and their values.

        Returns:
            what was meant, such as "did you mean LLM_MAX_TOKENS?", by variable, in the order of the names. A service
            does not start with such a variable. The text is empty for one that resembles no setting and is ignored.
        """
        prefix = cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        return {
            name: cls._meant(name, prefix, known)
            for name in sorted(environment)
            if name.startswith(prefix) and name not in known and not _is_from_kubernetes(name, environment[name])
        }

    @classmethod
    def _meant(cls, name: str, prefix: str, known: set[str]) -> str:
        setting = name.removeprefix(prefix).lower()
        if setting in _MEANT:
            meant, what = _MEANT[setting]
            return f"use {prefix}{meant.upper()}, {what}" if meant in cls.model_fields else ""
        near = similar_name(name, known, likeness=0.8)
        return f"did you mean {near}?" if near else ""

    @property
    def env_prefix(self) -> str:
        """Prefix of the environment variables."""
        return self.model_config["env_prefix"]

    def write_to(self, log: logging.Logger) -> None:
        """Logs the settings that differ from their defaults, and at level debug all, both with secrets masked."""
        log.info("settings that differ from their defaults: %s", self.describe())
        log.debug("all settings: %s", self.describe(defaults=True))

    def describe(self, *, defaults: bool = False) -> str:
        """Settings as one JSON line, with secrets masked.

        Args:
            defaults: whether to include the settings that have their defaults.
        """

        def shown(value: Any) -> Any:
            return "***" if isinstance(value, SecretStr) and value.get_secret_value() else value

        values = {
            name: shown(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if defaults or getattr(self, name) != field.get_default(call_default_factory=True)
        }
        return json.dumps(values, default=str)


class GrpcSettings(ServiceSettings):
    """Settings of a gRPC server: addresses, TLS, bearer tokens, connections and memory. All files are read again when
    they change."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    listen: HostAndPort
    """host:port of the gRPC server. Port 0 takes a free one and logs it."""

    metrics_listen: OptionalHostAndPort = ""
    """host:port of the Prometheus endpoint. Empty for none."""

    otlp_endpoint: str = ""
    """http://HOST:PORT or https://HOST:PORT of a collector of OpenTelemetry (OTLP over gRPC) for traces; needs
    pip install 'fovea[otel]'. Empty for none."""

    tls_cert: str = ""
    """PEM file with the server's certificate and its chain. Empty: no TLS, for loopback or behind a proxy with
    TLS."""

    tls_key: PrivateKeyFile = Field("", validate_default=True)
    """PEM file with the private key of --tls-cert, not encrypted."""

    tls_client_ca: str = Field("", validate_default=True)
    """PEM file with the CA of the clients, for mutual TLS: a client must present a certificate of it. Empty: no
    certificate is needed."""

    token_file: str = ""
    """File of lines SITE=SHA256. Every call except health checks then needs the bearer token of a site, or is refused
    with UNAUTHENTICATED. `python -m fovea.rpc.bearer_tokens SITE` prints a token and its line. Empty: no tokens."""

    reflection: bool = False
    """gRPC reflection, which describes the service to tools such as grpcurl. A server with --token-file asks for the
    bearer token there too."""

    max_connection_age_s: float = Field(300.0, ge=1)
    """Seconds after which clients are asked to connect anew. A new connection finds added replicas and presents a
    renewed certificate. Calls in progress go on until their own deadlines. Use less where replicas change often, more
    over a slow link."""

    max_bytes_in_flight: int = Field(2**30, ge=2**20)
    """Bytes of memory for the messages of all calls in progress and, in the LLM service, for their visual tokens.
    Beyond it calls are refused with RESOURCE_EXHAUSTED and a time to retry after. A call that is alone is accepted
    whatever its size. Messages that gRPC has received in part are not included: they take at most --max-message-bytes
    times --max-concurrent-rpcs."""

    max_message_bytes: int = Field(64 * 2**20, ge=2**16)
    """Most bytes of one gRPC message, in or out. A larger one is refused by gRPC with RESOURCE_EXHAUSTED."""

    max_concurrent_rpcs: int = Field(256, ge=2)
    """Most calls in progress, waiting ones and health checks included. The next one is refused by gRPC with
    RESOURCE_EXHAUSTED."""

    drain_grace_s: float = Field(30.0, ge=0)
    """Seconds that calls in progress have to finish after SIGTERM or SIGINT, when no new call is accepted. Then they
    are cancelled."""

    log_level: LogLevel = "info"
    """Lowest level of log lines, which are written to stderr."""

    @field_validator("tls_client_ca")
    @classmethod
    def _with_tls(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("tls_cert"):
            raise ValueError("clients present certificates over TLS only; give --tls-cert and --tls-key as well")
        return value

    @property
    def tls(self) -> ServerTLS | None:
        """PEM files of the server; None without TLS."""
        return ServerTLS(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert else None


class ModelSettings(GrpcSettings):
    """Settings of a GPU service: its gRPC server and the checkpoint that it loads."""

    revision: str | None = None
    """Branch, tag or commit of --model on the hub. Ignored for a directory."""

    served_model_name: str = ""
    """Model name that clients see. Empty for the value of --model, its last part if that is a directory."""

    wire_basis: str = ""
    """File that `python -m encoder_service.calibrate` made for this model, for the wire format basis. Encoder service
    and LLM service must load the same. Empty for wire.basis of the checkpoint, if it has one."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. auto takes CUDA where there is one. cuda without one stops the service at start."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype. auto is float32 on a CPU, and on CUDA the checkpoint's half dtype, or bfloat16 if it has none."""
