"""``python3 -m run.child NAME``, a process of its own: runs the samples of one artifact and prints a line of JSON. What kills it tells the parent."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List, Optional

from .bundle import Refused, artifact_named, read_manifest
from .machine import use_site
from .model import loaded, vectors


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout is left to chatty runtimes
    try:
        use_site()
        found = judged(artifact_named(read_manifest(), sys.argv[1]))
    except Refused as refusal:
        found = {"problem": str(refusal)}
    except Exception as error:  # whatever a runtime raises
        found = {"problem": "it fails: %s: %s" % (type(error).__name__, " ".join(str(error).split())[-400:])}
    json.dump(found, answer)
    answer.close()
    os._exit(0)  # tearing a runtime down takes a second, and may fail


def judged(artifact: Dict[str, Any]) -> Dict[str, Any]:
    """The outputs of the samples against those that are expected: within the limits of the parity gate, or what is not."""
    import numpy as np

    from .compare import agreement_of, cosine_of, is_classifier, malformed, relative_difference

    arrays = vectors(artifact)
    inputs = [arrays["input_%d" % index] for index in range(len(artifact["inputs"]))]
    wanted = [arrays["output_%d" % index] for index in range(artifact["outputs"])]
    with loaded(artifact) as infer:
        rows: List[List[Any]] = []
        for sample in range(len(inputs[0])):
            rows.append(infer([np.ascontiguousarray(array[sample : sample + 1]) for array in inputs]))
    if len(rows[0]) != len(wanted):
        return {"problem": "it gives %d outputs, and %d are expected" % (len(rows[0]), len(wanted))}
    outputs = [np.concatenate([np.asarray(row[index], wanted[index].dtype) for row in rows]) for index in range(len(rows[0]))]
    problem = malformed(wanted, outputs)
    if problem:
        return {"problem": problem}
    pairs = list(zip(wanted, outputs))
    figures: Dict[str, Optional[float]] = {
        "max_rel": max(relative_difference(a, b) for a, b in pairs),
        "cosine": min(cosine_of(a, b) for a, b in pairs),
        "agreement": agreement_of(outputs[0], wanted[0].argmax(1)) if is_classifier(wanted[0]) else None,
    }
    return {"problem": beyond(figures, artifact["limits"], len(inputs[0])), "samples": len(inputs[0]), **figures}


def beyond(figures: Dict[str, Any], limits: Dict[str, Any], samples: int) -> Optional[str]:
    """What lies beyond its limit. Of few samples, one more than the share that is allowed may have another class."""
    if limits["max_rel"] is not None and not figures["max_rel"] <= limits["max_rel"]:
        return "the outputs differ by %.2g x max|output| from those that are expected, allowed are %g" % (figures["max_rel"], limits["max_rel"])
    if not figures["cosine"] >= limits["cosine"]:
        return "the cosine between the outputs and those that are expected is %.4f, it must reach %g" % (figures["cosine"], limits["cosine"])
    if figures["agreement"] is not None and limits["agreement"] is not None:
        others, allowed = round(samples * (1 - figures["agreement"] / 100)), -(-samples * (100 - limits["agreement"]) // 100)
        if others > allowed:
            return "%d of %d samples get another class than is expected, allowed are %d" % (others, samples, allowed)
    return None


if __name__ == "__main__":
    main()
