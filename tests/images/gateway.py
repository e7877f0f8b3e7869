"""An ordinary client of a gateway, and its load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from fovea.checkpoints.shipped import demo_folder
from tests.waiting import wait_until

__all__ = ["MOON", "Gateway", "demo_image"]

MOON = "What color is the moon?"
_READY_S = 120
_TIMEOUT_S = 120


def demo_image() -> bytes:
    """Bytes of the demo's image, on which the moon is pink."""
    return (demo_folder() / "demo.png").read_bytes()


@dataclass(frozen=True)
class Gateway:
    """A gateway by its address, and the API key of a client."""

    url: str
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            try:
                return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        wait_until(is_ready, _READY_S)

    def post(self, question: str, **fields: Any) -> httpx.Response:
        """Response to a question about the demo's image."""
        return httpx.post(
            f"{self.url}/v1/answer",
            headers=self.headers,
            files={"image": demo_image()},
            data={"question": question, **fields},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        """Answer to a question about the demo's image."""
        response = self.post(question, **fields)
        assert response.status_code == httpx.codes.OK, response.text
        return dict(response.json())

    def statuses(self, questions: Sequence[str], in_flight: int, after: Callable[[int], None]) -> list[int]:
        """Status of each question, none of which comes from a cache.

        Args:
            questions: questions about the demo's image.
            in_flight: number of clients that ask at the same time.
            after: called with the number of questions that were answered, after each of them.
        """
        done = 0
        with ThreadPoolExecutor(in_flight) as clients:
            statuses = []
            for response in clients.map(lambda question: self.post(question, cache="bypass"), questions):
                statuses.append(response.status_code)
                done += 1
                after(done)
        return statuses
