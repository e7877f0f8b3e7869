"""Life of a GPU service: its address is bound, its model loaded while health answers, calls served until a signal.

A service has a `load` that returns its `ServedModel`, and a `Servicer` that answers calls with it. `run` is the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from fovea import tracing
from fovea.errors import Unavailable
from fovea.modeling.errors import CheckpointError
from fovea.processes.worker_process import WorkerDied
from fovea.pruner_registry import PluginError
from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.lifecycle import load_in_background, stop_signal, wait_unless_stopped
from fovea.rpc.load_metrics import report_load
from fovea.rpc.server import BindError, GrpcServer, ServerConfig
from fovea.settings import GrpcSettings
from fovea.telemetry import configure_logging
from fovea.tracing import TracingError
from fovea.wire.basis_file import BasisError

__all__ = ["ServedModel", "Servicer", "read_settings", "run", "serve"]

log = logging.getLogger(__name__)

# What a service cannot start with. The messages are sentences for the operator.
_START_ERRORS: Final = (
    BasisError,
    BindError,
    CheckpointError,
    CredentialsError,
    FileNotFoundError,
    PluginError,
    TracingError,
    WorkerDied,
)
# Time for open streams to receive the error of a model that has died.
_DEAD_MODEL_GRACE_S: Final = 5.0


class ServedModel(Protocol):
    """A loaded model with what computes on it. `str` describes it in the log."""

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for the model. Thread-safe."""
        ...

    @property
    def num_running(self) -> int:
        """Number of requests that the model runs. Thread-safe."""
        ...

    @property
    def queue_time_s(self) -> float:
        """Estimated queue time of the next request, in seconds; 0 without evidence. Thread-safe."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Context in which requests are computed: starts processes and threads, and ends them."""
        ...

    async def watch(self, report_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Watches the model while it runs. Returns if it can compute no more, and the process has to be restarted.

        Args:
            report_serving: function that sets whether health says SERVING.
        """
        ...


Settings = TypeVar("Settings", bound=GrpcSettings)
Model = TypeVar("Model", bound=ServedModel)


class Servicer(Generic[Model]):
    """Base of the methods of a gRPC service, which a subclass adds to the server.

    They answer UNAVAILABLE until `attach`: the port opens before the model is loaded.

    Args:
        settings: settings of the service.
        server: server of the methods.

    Attributes:
        SERVICE: full name of the service.
        NAME: name of the service in messages.
        LOADING_RETRY_S: seconds after which to retry a call while the model is being loaded.
    """

    SERVICE: ClassVar[str]
    NAME: ClassVar[str]
    LOADING_RETRY_S: ClassVar[float]

    def __init__(self, settings: Any, server: GrpcServer) -> None:
        self._attached: Model | None = None

    def attach(self, model: Model) -> None:
        """Makes the methods answer with a loaded model, which is running."""
        self._attached = model

    @property
    def _model(self) -> Model:
        if self._attached is None:
            raise Unavailable(f"the {self.NAME} is loading its model", retry_after_s=self.LOADING_RETRY_S)
        return self._attached


def read_settings(kind: type[Settings], service: str, argv: list[str] | None = None) -> Settings:
    """Settings from flags and environment; those that differ from their defaults are logged.

    A wrong setting ends the process with status 2.

    Args:
        kind: class of the settings.
        service: name of the service in its log lines.
        argv: arguments without the program; None for those of the process.
    """
    settings = kind.from_command_line(sys.argv[1:] if argv is None else argv)
    configure_logging(service, settings.log_level)
    settings.write_to(log)
    return settings


def run(settings: Settings, servicer: type[Servicer[Model]], load: Callable[[Settings], Model]) -> int:
    """Serves until SIGTERM or SIGINT; what keeps the service from starting is logged as one line.

    Args:
        settings: settings of the service.
        servicer: class of its methods.
        load: function that loads the model; it runs on a thread of its own.

    Returns:
        Exit status: 0 after a signal, 1 if the service could not start or its model died.
    """
    try:
        tracing.start(servicer.NAME, settings.otlp_endpoint)
        return asyncio.run(serve(settings, servicer, load))
    except _START_ERRORS as error:
        log.error("%s", error)
        return 1


async def serve(settings: Settings, servicer: type[Servicer[Model]], load: Callable[[Settings], Model]) -> int:
    """See `run`. A signal ends it at once while the model is being loaded, and drains it afterwards.

    Raises:
        CheckpointError, FileNotFoundError, BasisError: the model or its wire basis cannot be loaded.
        PluginError: a pruner of another package cannot be used.
        BindError: an address is taken.
        CredentialsError: a certificate, key or bearer-token file cannot be used.
        WorkerDied: a process that the model needs cannot be started.
    """
    stop = stop_signal()
    server = GrpcServer(ServerConfig.from_settings(settings), services=[servicer.SERVICE])
    methods = servicer(settings, server)
    stopped = asyncio.create_task(stop.wait())
    try:
        await server.start()
        loading = load_in_background(lambda: load(settings))
        log.info("port %d is open; loading the model", server.port)
        if not await wait_unless_stopped(loading, stopped):
            return 0
        model = loading.result()
        async with contextlib.AsyncExitStack() as running:
            starting = asyncio.ensure_future(running.enter_async_context(model.running()))
            if not await wait_unless_stopped(starting, stopped):
                starting.cancel()
                return 0
            starting.result()
            report_load(
                waiting=lambda: model.num_waiting,
                running=lambda: model.num_running,
                queue_time_s=lambda: model.queue_time_s,
            )
            methods.attach(model)
            await server.ready()
            log.info("serving on port %d: %s", server.port, model)
            return await _serve_until_stopped(model, server, stopped, drain_grace_s=settings.drain_grace_s)
    finally:
        stopped.cancel()
        await server.drain(0)


async def _serve_until_stopped(
    model: ServedModel, server: GrpcServer, stopped: asyncio.Task[bool], *, drain_grace_s: float
) -> int:
    """Serves until a signal or the death of the model, then drains; returns the exit status."""
    watching = asyncio.create_task(model.watch(server.report_serving))
    try:
        if await wait_unless_stopped(watching, stopped):
            watching.result()
            log.critical("the model can compute no more; this process exits, so that it can be restarted")
            await server.drain(_DEAD_MODEL_GRACE_S)
            return 1
    finally:
        watching.cancel()
    log.info("draining: calls in progress have %g s to finish", drain_grace_s)
    await server.drain(drain_grace_s)
    return 0
