"""The runtimes, one file a format, with one face:

start(spec)                 import the runtime
load(spec)                  -> infer(list of arrays) -> list of arrays
load_resident(spec, feeds)   -> infer and what it takes in place of each feed: data that lie on the card, where the results stay (GPU runtimes)
executed_kernels(spec, feed) -> {precision: number of compute nodes}
operator_times(spec, feed)   -> rows of [name, kind, mean ms] or None, and why there are none
"""


def on_gpu(spec) -> bool:
    return spec.get("device") == "gpu"
