"""How inferences are asked for, one file a scenario, with one face:

run(infer, feeds, settings) -> {"samples_ns": times of the queries, "inferences": calls of infer, "figures": {name: (value, unit)}}

A scenario that does more than ask may say itself how long the asking took: ``wall_s`` and ``cpu_s``, in seconds.
``feeds`` are lists of arrays that take turns. Every scenario goes on for ``min_seconds`` and ``min_count`` queries, and ends at
``max_seconds`` whatever has happened.
"""
