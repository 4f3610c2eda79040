"""Failures that a worker reports by their names; `edge.bench.launch.FAILURES` knows what they mean."""


class BadOutput(Exception):
    """The runtime gave NaN, infinity, or another number of rows than it was fed."""


class UnsupportedPrecision(Exception):
    """A precision was asked for and the runtime would quietly compute in another."""


class Unavailable(Exception):
    """A runtime, a counter or something else that is asked for is not there, or did not answer; the text is the reason that stands in the result."""
