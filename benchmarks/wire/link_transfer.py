"""Messages of visual tokens of real size over a link, without a model: `send` sends them, `sink` answers each.

They travel as in an answer: in a GenerateRequest, on the channel and to the server of the services.

    python -m benchmarks.wire.link_transfer sink HOST:PORT
    python -m benchmarks.wire.link_transfer send HOST:PORT COUNT CHANNELS DTYPE TIMES
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import numpy as np

from benchmarks.harness.arguments import command_parser
from fovea.rpc.channel import connect
from fovea.rpc.lifecycle import stop_signal
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import llm_pb2, llm_pb2_grpc, tensor_pb2
from fovea.wire.formats import names_accepted
from fovea.wire.tensors import parse_dtype, to_message

__all__ = ["TRANSFER_DTYPES", "main", "visual_tokens"]

# A wire basis is learned from the features of a model, and there is no model here.
TRANSFER_DTYPES: Final = tuple(names_accepted(has_basis=False))

_MAX_MESSAGE_BYTES = 64 * 2**20


def visual_tokens(count: int, channels: int, dtype: str) -> tensor_pb2.VisualTokens:
    """A message of `count` visual tokens: normal random numbers, which do not compress, at distinct positions."""
    features = np.random.default_rng(0).standard_normal((count, channels)).astype(np.float32)
    positions = np.sort(np.random.default_rng(1).permutation(576)[:count])
    return tensor_pb2.VisualTokens(
        features=to_message(features, parse_dtype(dtype)),
        positions=positions.tolist(),
        grid=tensor_pb2.Grid(frames=1, rows=24, columns=24),
        fingerprint="0" * 16,
    )


class _Sink(llm_pb2_grpc.LLMServiceServicer):
    async def Generate(  # noqa: N802
        self, request: llm_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        yield llm_pb2.GenerateResponse(done=llm_pb2.Done(finish_reason="stop"))


async def _sink(listen: str) -> None:
    stop = stop_signal()
    server = GrpcServer(
        ServerConfig(listen, max_message_bytes=_MAX_MESSAGE_BYTES, max_concurrent_rpcs=8),
        services=["fovea.v1.LLMService"],
    )
    llm_pb2_grpc.add_LLMServiceServicer_to_server(_Sink(), server.grpc)
    await server.start()
    print("ready", flush=True)
    await stop.wait()
    await server.drain(0)


async def _send(target: str, tokens: tensor_pb2.VisualTokens, times: int) -> dict[str, Any]:
    channel = connect(target, max_message_bytes=_MAX_MESSAGE_BYTES)
    await channel.channel_ready()
    request = llm_pb2.GenerateRequest(visual_tokens=[tokens])
    stub = llm_pb2_grpc.LLMServiceStub(channel)
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        async for _ in stub.Generate(request, timeout=600):
            pass
        seconds.append(time.perf_counter() - start)
    await channel.close()
    return {"message_bytes": request.ByteSize(), "seconds": seconds}


def main(argv: list[str] | None = None) -> int:
    """Runs one end of the link."""
    parser = command_parser("benchmarks.wire.link_transfer", __doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    sink = roles.add_parser("sink", help="answer every message")
    send = roles.add_parser("send", help="send messages, and print how long each took")
    for role in (sink, send):
        role.add_argument("address", metavar="HOST:PORT")
    send.add_argument("count", type=int, help="visual tokens of a message")
    send.add_argument("channels", type=int)
    send.add_argument("dtype", choices=TRANSFER_DTYPES)
    send.add_argument("times", type=int, help="number of messages")
    args = parser.parse_args(argv)
    if args.role == "sink":
        asyncio.run(_sink(args.address))
    else:
        sent = asyncio.run(_send(args.address, visual_tokens(args.count, args.channels, args.dtype), args.times))
        print(json.dumps(sent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
