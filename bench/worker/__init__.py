"""The worker: one small program that measures one artifact, on the desk or on the device.

It needs Python 3.8+, the standard library, numpy and the one runtime under test; it imports nothing of this tool. A spec
file goes in, a result file comes out (written, then renamed); stdout is left to chatty runtimes.
"""

SCHEMA_VERSION = 2
