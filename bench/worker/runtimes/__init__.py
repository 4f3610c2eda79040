"""The runtimes, one file a format, with one face:

start(spec)                 import the runtime
load(spec)                  -> infer(list of arrays) -> list of arrays
executed_kernels(spec, feed) -> {precision: number of compute nodes}
operator_times(spec, feed)   -> rows of [name, kind, mean ms] or None, and why there are none
"""
