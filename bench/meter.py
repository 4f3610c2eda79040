"""An external power meter's log, laid over a measurement: for boards that measure nothing themselves."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bench.results import Process
from edge.errors import BadInput
from edge.files import read_limited
from edge.vocabulary import Measurement, absent

#: A larger log is refused, in bytes.
MAX_LOG = 256 << 20
COLUMNS = ("seconds", "watts")
#: Fewer readings within a measurement are too few to integrate.
MIN_READINGS = 3


@dataclass(frozen=True)
class PowerLog:
    """Readings of the power in W at seconds since 1970, both [N], in time order; ``idle_w`` is taken off, where it is known."""

    seconds: NDArray[np.float64]
    watts: NDArray[np.float64]
    idle_w: float | None = None

    def energy(self, processes: tuple[Process, ...], batch: int) -> Measurement:
        """mJ per inference over the times of the processes, by the trapezoidal rule between readings.

        The meter's clock must be that of this machine: to a fraction of a second, for a measurement of seconds.
        """
        if not processes:
            return absent("mJ", "not measured")
        total = 0.0
        for process in processes:
            began, ended = process.began, process.began + process.wall_s
            inside = np.count_nonzero((self.seconds >= began) & (self.seconds <= ended))
            if inside < MIN_READINGS or self.seconds[0] > began or self.seconds[-1] < ended:
                return absent("mJ", f"the power log has {inside} readings during a process of {process.wall_s:.1f} s, or does not cover it")
            times = np.unique(np.concatenate([[began], self.seconds[(self.seconds > began) & (self.seconds < ended)], [ended]]))
            power = np.interp(times, self.seconds, self.watts)
            total += float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(times))) - (self.idle_w or 0.0) * process.wall_s
        return Measurement(value=1e3 * total / (sum(process.inferences for process in processes) * batch), unit="mJ")


def read_power_log(path: Path, idle_w: float | None = None) -> PowerLog:
    """A CSV file with the columns ``seconds`` (since 1970) and ``watts``; others are ignored.

    Raises:
        BadInput: unreadable, without these columns, with a row that is no pair of finite numbers, or out of order.
    """
    rows = csv.DictReader(read_limited(path, MAX_LOG, "power log").decode(errors="replace").splitlines())
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise BadInput(f"{path}: has no column {missing[0]!r}", hint="the first line is: seconds,watts")
    try:
        pairs = np.array([[float(row[name]) for name in COLUMNS] for row in rows], np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: line {rows.line_num}: {error}") from error
    if not len(pairs) or not np.isfinite(pairs).all() or (np.diff(pairs[:, 0]) <= 0).any():
        raise BadInput(f"{path}: needs readings, finite, in the order of their times")
    return PowerLog(pairs[:, 0], pairs[:, 1], idle_w)
