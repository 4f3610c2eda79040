"""MLPerf LoadGen asks the queries and takes their times (mlcommons/inference, loadgen/README.md; scenario SingleStream): a second opinion on ours.

LoadGen's time of a query runs from its scheduling, when the one before is complete, to its completion; all in nanoseconds. It is answered inline:
the callback runs the model and completes the query. The single times come from LoadGen's trace, the percentiles and the verdict from its detail
log; LoadGen writes both when the test is over (``EndOfTestOnly``). It generates its queries beforehand, and that and the logs stand in the energy
readings, not in ``wall_s`` and ``cpu_s``: those run from the first query to the last.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
import time
from time import perf_counter_ns

from edge_worker.failures import Unavailable

#: LoadGen generates twice the queries that fill the shortest time at the expected latency; the fastest call times this is expected of all.
MARGIN = 0.75
#: Calls whose fastest is taken for that.
PROBES = 10
#: With more expected queries no single times are kept: LoadGen's trace takes about 600 bytes a query.
TRACED = 500_000
SAMPLE = re.compile(rb'"name":"Sample".*"complete_ns":(\d+)')


def run(infer, feeds, settings):
    loadgen = _imported()
    system = _System(loadgen, infer, feeds)
    with tempfile.TemporaryDirectory(prefix="edge-loadgen.") as folder:
        expected_ns = max(1, int(MARGIN * _fastest(infer, feeds)))
        traced = max(settings["min_seconds"] * 1e9 / expected_ns, settings["min_count"]) <= TRACED
        _start(loadgen, system, len(feeds), _test(loadgen, settings, expected_ns), _log(loadgen, folder, traced))
        if system.error is not None:
            raise system.error
        result = _result(os.path.join(folder, "mlperf_log_detail.txt"))
        samples = _samples(os.path.join(folder, "mlperf_log_trace.json"))
    return {"samples_ns": samples, "inferences": system.done, "figures": _figures(result), **system.took()}


def _imported():
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise Unavailable(
            "MLPerf LoadGen cannot be imported (%s); run: %s -m pip install mlcommons-loadgen==6.0.17" % (error, sys.executable)
        ) from error
    return mlperf_loadgen


class _System:
    """The system under test: answers each query inline. An exception must not cross LoadGen's C++ frames, so it is kept for later."""

    def __init__(self, loadgen, infer, feeds):
        self.loadgen, self.infer, self.feeds = loadgen, infer, feeds
        self.done, self.error = 0, None
        self.began = self.ended = (0.0, 0.0)

    def issue(self, responses, samples):
        """Called by LoadGen with the identities of one query and the indices of its samples, one of each in SingleStream."""
        if not self.done:
            self.began = time.perf_counter(), time.process_time()
        try:
            if self.error is None:
                self.infer(self.feeds[samples[0]])
        except Exception as error:
            self.error = error
        self.done += 1
        self.loadgen.QuerySamplesComplete([self.loadgen.QuerySampleResponse(responses[0], 0, 0)])

    def flush(self):
        """Called by LoadGen when it has issued the last query."""
        self.ended = time.perf_counter(), time.process_time()

    def took(self):
        """Seconds from the first query to the last."""
        return {"wall_s": self.ended[0] - self.began[0], "cpu_s": self.ended[1] - self.began[1]}


def _fastest(infer, feeds) -> int:
    """Time of the fastest of some calls, in ns."""
    times = []
    for call in range(PROBES):
        start = perf_counter_ns()
        infer(feeds[call % len(feeds)])
        times.append(perf_counter_ns() - start)
    return min(times)


def _test(loadgen, settings, expected_ns):
    """LoadGen's TestSettings (loadgen/test_settings.h): times in ms but where they say ns."""
    test = loadgen.TestSettings()
    test.scenario, test.mode = loadgen.TestScenario.SingleStream, loadgen.TestMode.PerformanceOnly
    test.single_stream_target_latency_percentile = 0.9
    test.single_stream_expected_latency_ns = expected_ns
    test.min_duration_ms = math.ceil(settings["min_seconds"] * 1e3)
    test.max_duration_ms = math.ceil(settings["max_seconds"] * 1e3)
    test.min_query_count = settings["min_count"]
    return test


def _log(loadgen, folder, traced):
    log = loadgen.LogSettings()
    log.log_mode, log.enable_trace = loadgen.LoggingMode.EndOfTestOnly, traced
    log.log_output.outdir, log.log_output.copy_summary_to_stdout = folder, False
    return log


def _start(loadgen, system, samples, test, log):
    """Run the test to its end. The feeds are in memory, so loading and unloading samples does nothing."""
    under_test = loadgen.ConstructFastSUT(system.issue, system.flush)
    library = loadgen.ConstructQSL(samples, samples, lambda indices: None, lambda indices: None)
    try:
        loadgen.StartTestWithLogSettings(under_test, library, test, log)
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroyFastSUT(under_test)


def _result(path) -> dict:
    """LoadGen's detail log, {key: value}: a JSON object a line, behind a mark."""
    mark, found = ":::MLLOG ", {}
    with open(path) as file:
        for line in file:
            if line.startswith(mark):
                entry = json.loads(line[len(mark) :])
                found[entry["key"]] = entry["value"]
    return found


def _samples(path) -> list:
    """LoadGen's times of the queries in their order, in ns; none without a trace."""
    with open(path, "rb") as file:
        return [int(match.group(1)) for match in map(SAMPLE.search, file) if match]


def _figures(result) -> dict:
    """LoadGen's own percentiles, in ms, and how many of the processes it calls valid: each counts as 1 or 0."""
    percentiles = {"loadgen_p%d" % q: (result["result_%d.00_percentile_latency_ns" % q] / 1e6, "ms") for q in (50, 90, 99)}
    return {**percentiles, "valid": (int(result["result_validity"] == "VALID"), "count")}
