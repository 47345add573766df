"""Ctrl-C and `kill`: a request to stop, which the loop obeys at the end of a step."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger("equipot.fit")


class Interrupted(Exception):
    """A stop was requested while something was evaluated that can be thrown away."""


class StopRequest:
    """A context in which SIGINT and SIGTERM ask to stop instead of killing; a second Ctrl-C stops at once.

    Signals reach the main thread only; in another thread the context changes nothing, and `requested` may be
    set by whoever runs it.

    Args:
        insist: Whether a second SIGINT raises KeyboardInterrupt. Not under `torchrun`, which repeats signals
            and kills after half a minute by itself.
    """

    def __init__(self, insist: bool = True) -> None:
        self.requested = False
        self._insist = insist
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and self._insist and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            hint = "; Ctrl-C again to stop at once" if self._insist else ""
            logger.warning("%s: finishing this step and saving%s", signal.Signals(number).name, hint)
        self.requested = True
