"""Queries of several samples, as of several cameras: a query is done when its last sample is (MLPerf Inference, MultiStream)."""

from __future__ import annotations

from edge_worker.scenarios import single_stream


def run(infer, feeds, settings):
    streams = settings["streams"]

    def query(group):
        for feed in group:
            infer(feed)

    groups = [[feeds[(first + index) % len(feeds)] for index in range(streams)] for first in range(0, len(feeds) * streams, streams)]
    found = single_stream.run(query, groups, settings)
    return {**found, "inferences": found["inferences"] * streams}
