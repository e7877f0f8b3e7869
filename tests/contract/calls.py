"""gRPC servers that record the calls to a service as bytes, or answer with recorded ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

import grpc
from grpc_health.v1 import health_pb2

__all__ = ["Call", "CallServer", "Player", "Tap"]

_THREADS: Final = 16


@dataclass(frozen=True)
class Call:
    """Call of a method of the contract.

    Attributes:
        method: Path of the method, such as /fovea.v1.EncoderService/Encode.
        request: Serialized request.
        replies: Serialized messages of the reply, of which only a stream has several.
    """

    method: str
    request: bytes
    replies: Sequence[bytes]


class _Handler(Protocol):
    def handle(self, method: str, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class CallServer(grpc.GenericRpcHandler):
    """Server on a free port of the loopback interface that handles messages as bytes, within a `with` block.

    Args:
        handler: Handler of all calls, closed with the server.

    Attributes:
        address: host:port of the server.
    """

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        self._server = grpc.server(ThreadPoolExecutor(_THREADS))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, handler_call_details: Any) -> Any:
        """Handler of a method. A reply with one message is the same on the wire as a stream of one."""
        method = handler_call_details.method
        return grpc.unary_stream_rpc_method_handler(
            lambda request, context: self._handler.handle(method, request, context)
        )

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()
        self._handler.close()


class Tap:
    """Forwards calls to a service and records those of the contract.

    Args:
        target: host:port of the service.

    Attributes:
        calls: Calls so far that succeeded.
    """

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self.calls: list[Call] = []

    def handle(self, method: str, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Replies of the service."""
        call = self._channel.unary_stream(method)(request, timeout=context.time_remaining())
        context.add_callback(call.cancel)
        replies = []
        try:
            for reply in call:
                replies.append(reply)
                yield reply
        except grpc.RpcError as error:
            context.set_trailing_metadata(call.trailing_metadata())
            context.abort(error.code(), error.details())
        if method.startswith("/fovea."):
            self.calls.append(Call(method, request, replies))

    def close(self) -> None:
        """Closes the connection to the service."""
        self._channel.close()


class Player:
    """Answers calls as they were recorded. A method that was called several times answers in the recorded order."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def play(self, calls: Sequence[Call]) -> None:
        """Replaces the calls to answer."""
        self._calls = list(calls)

    def handle(self, method: str, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Replies of the recorded call with this request, or else of the first call of the method."""
        if method.startswith("/grpc.health."):
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
            return
        with self._lock:
            of_method = [call for call in self._calls if call.method == method]
            if not of_method:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no further call of {method} was recorded")
            call = next((call for call in of_method if call.request == request), of_method[0])
            if not method.endswith("/GetModelInfo"):
                self._calls.remove(call)
        yield from call.replies

    def close(self) -> None:
        """No effect."""
