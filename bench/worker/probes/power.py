"""Energy from a meter that only tells power: sampled from a thread, integrated over time."""

from __future__ import annotations

import threading
import time

from edge_worker.probes.reading import Reader, Unavailable


class Sampler:
    """Calls ``take`` at ``start``, every ``period`` seconds from a thread, and at ``stop``; the first failure ends it."""

    def __init__(self, take, period: float) -> None:
        self._take, self._period = take, period

    def start(self) -> None:
        self._failure: Exception | None = None
        self._take()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._take()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._period):
                self._take()
        except Exception as error:
            self._failure = error


class PowerReader(Reader):
    """Energy in mJ of a subclass that gives ``milliwatts()``; the first and the last sample are those of start and stop.

    The thread runs in the measured process: its readings are part of the CPU time and of the instructions counted there.
    """

    #: Seconds between samples.
    period = 0.1

    def milliwatts(self) -> float:
        raise NotImplementedError

    def _begin(self) -> None:
        self._samples: list = []
        self._sampler = Sampler(self._take, self.period)
        self._sampler.start()

    def _end(self) -> float:
        self._sampler.stop()
        return integrate(self._samples)

    def _take(self) -> None:
        """A sample stands at the middle of its reading. A running machine draws power, so 0 is no reading."""
        began, power = time.monotonic(), self.milliwatts()
        if not 0 < power < float("inf"):
            raise Unavailable("a meter that reads %s mW is not measuring" % power)
        self._samples.append(((began + time.monotonic()) / 2, power))


def integrate(samples: list) -> float:
    """Energy in mJ under (seconds, mW) samples, by the trapezoidal rule."""
    return sum((later - sooner) * (first + last) / 2 for (sooner, first), (later, last) in zip(samples, samples[1:]))
