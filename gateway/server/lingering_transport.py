"""Transport that closes in a bounded time, and without destroying a response that the client has not read yet."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from fovea import telemetry

__all__ = ["LingeringTransport"]

_LINE_END: Final = b"\r\n"


class LingeringTransport(asyncio.Transport):
    """Transport whose `close` waits for a client that is still sending, and aborts one that does not read.

    A socket that is closed with unread bytes resets the connection, and the client may lose the response, for example
    a 413 about the body that it is sending. Therefore only the sending side is closed at first. What the client still
    sends is read and dropped until the client closes its side, or for `linger_s`.

    asyncio alone would keep a closed connection for ever if the client does not read the rest of the response.

    Args:
        transport: Transport of the socket or of TLS.
        linger_s: Most seconds in which the bytes of a client are dropped.
        send_timeout_s: Seconds without progress after which unsent bytes are dropped.
        is_receiving: Function that tells whether the client may have more to send.

    Attributes:
        lingering: The sending side is closed: received bytes are to be dropped.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        linger_s: float,
        send_timeout_s: float,
        is_receiving: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._transport = transport
        self._linger_s = linger_s
        self._send_timeout_s = send_timeout_s
        self._is_receiving = is_receiving
        self._loop = asyncio.get_running_loop()
        self._linger_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self.lingering = False
        self._is_holding = False
        self._held = b""
        self._more_headers = b""

    def close(self) -> None:
        """Closes the transport; the sending side only, if the client may still be sending."""
        if self.is_closing():
            return
        self.watch_sending()
        if not self._is_receiving():
            self._transport.close()
            return
        self._transport.resume_reading()
        self.lingering = True
        self._linger_timer = self._loop.call_later(self._linger_s, self._transport.close)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def close_now(self) -> None:
        """Closes the transport without waiting for what the client sends."""
        self.watch_sending()
        self._transport.close()

    def abort(self) -> None:
        """Closes the transport at once. Bytes that are not sent yet are dropped, those that the kernel has are not."""
        self._transport.abort()

    def watch_sending(self) -> None:
        """Aborts the connection once no unsent byte is sent for the time limit, until there is none or
        `stop_watching_sending`."""
        if self._send_timer is None:
            self._send_timer = self._loop.call_later(self._send_timeout_s, self._check_sending, self._num_unsent())

    def stop_watching_sending(self) -> None:
        """Ends `watch_sending`, except on a transport that is closing."""
        if not self.is_closing():
            self._stop_send_timer()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _check_sending(self, num_before: int) -> None:
        self._send_timer = None
        if not self.get_write_buffer_size():
            return
        if self._num_unsent() < num_before:
            self.watch_sending()
            return
        telemetry.count_failure(telemetry.FailureKind.CLIENT_STALLED)
        self._transport.abort()

    def _num_unsent(self) -> int:
        """Number of bytes that the client has not received yet, those in the kernel's buffer included.

        The kernel takes more bytes only when a third of its buffer is free. On a slow link that is a long step.
        """
        sock = self.get_extra_info("socket")
        try:
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)) if sock else bytes(4)
        except OSError:  # the socket is closed, or the system has no such call
            queued = bytes(4)
        return self.get_write_buffer_size() + int(struct.unpack("i", queued)[0])

    def lost(self) -> None:
        """Cancels all timers. To be called when the connection is lost."""
        self._stop_send_timer()
        if self._linger_timer is not None:
            self._linger_timer.cancel()

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self.lingering or self._transport.is_closing()

    def hold_head(self, more_headers: bytes) -> None:
        """Sends the head of a response, which is written next, together with what is written after it, so that both fit
        into one packet.

        Args:
            more_headers: Lines that are added to the head, each with its end.
        """
        self._is_holding, self._more_headers = True, more_headers

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends `data`, unless the transport is closing."""
        if self.is_closing():
            return
        if self._is_holding:
            end = len(data) - len(_LINE_END)  # of the last header
            self._held, self._is_holding = bytes(data[:end]) + self._more_headers + _LINE_END, False
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._transport.write(data)

    def pause_reading(self) -> None:
        """Stops reading, unless the transport is closing."""
        if not self.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resumes reading, unless the transport is closing."""
        if not self.is_closing():
            self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Number of bytes that are not sent yet."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        return self._transport.get_extra_info(name, default)
