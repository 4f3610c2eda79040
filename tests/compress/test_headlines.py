"""What is said beside the literature stands in the committed results; one of it is made again, from the training images on."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from edge.compress.result import SUFFIX, Result, read_result
from edge.vocabulary import Format
from tests.conftest import ROOT, run_edge


def committed(name: str) -> Result:
    return read_result(ROOT / "edge" / "recipes" / f"{name}{SUFFIX}")


def lost(result: Result) -> float:
    """Points, mean of the seeds, against the dense nets of the same seeds."""
    pairs = [(each.error_before, each.error_after) for each in result.seeds]
    return statistics.mean(after - before for before, after in pairs if before is not None and after is not None)


def smallest_ratio(result: Result) -> float:
    return min(result.baseline_bytes / each.packed_bytes for each in result.seeds)


@pytest.mark.parametrize(("name", "ratio", "error"), [("lenet300-100x", 100, 1.6), ("lenet5-100x", 100, 0.8), ("lenet5-800x", 771, 1.0)])
def test_lenets_are_as_small_and_as_right_as_the_page_says(name: str, ratio: float, error: float) -> None:
    result = committed(name)
    assert len(result.seeds) == 3 and statistics.mean(result.errors()) <= error
    assert smallest_ratio(result) >= ratio


@pytest.mark.parametrize(("name", "ratio"), [("alexnet-70x", 35), ("vgg-50x", 49)])
def test_larger_nets_pass_the_published_ratio_within_0_2_points(name: str, ratio: float) -> None:
    result = committed(name)
    assert len(result.seeds) == 3 and lost(result) <= 0.2 and smallest_ratio(result) >= ratio


@pytest.mark.parametrize(("name", "times"), [("alexnet-filters", 3), ("alexnet-70x", 3), ("vgg-filters-5x", 5), ("vgg-50x", 5)])
def test_filter_pruning_is_as_fast_as_the_page_says(name: str, times: float) -> None:
    result = committed(name)
    interval = result.speed[Format.ONNX.value].speedup.interval
    assert interval and interval[0] >= times and lost(result) <= 0.2


def test_half_of_the_resnet_s_multiplications_go_within_half_a_point() -> None:
    for name in ("resnet-filters", "resnet-filters-8"):
        result = committed(name)
        assert lost(result) <= 0.5 and result.macs <= 0.5 * committed("resnet-dense").macs


def test_recall_stays_within_a_point_and_needs_both_modalities() -> None:
    recall = committed("image-text").recall
    assert (
        {(found.direction, bool(found.blank)) for found in recall}
        == {(found.direction, blank) for found in recall for blank in (False, True)}
        != set()
    )
    for found in recall:
        assert found.before - found.after <= 1
        assert not found.blank or max(found.before, found.after) < 15  # one of ten by chance


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_headline_is_reached_again_from_scratch(tmp_path: Path) -> None:
    ran = run_edge("compress", ROOT / "edge" / "recipes" / "lenet300-100x.toml", "--out", tmp_path / "out", "--json", seconds=2700)
    assert ran.code == 0, ran.err
    result = read_result(tmp_path / "out" / f"lenet300-100x{SUFFIX}")
    assert result.ratio >= 100 and statistics.mean(result.errors()) <= 1.6
    proof = run_edge("compress", "--verify", tmp_path / "out")
    assert proof.code == 0, proof.err
