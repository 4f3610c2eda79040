"""Frames of a video: read in order, spread over calibration and judging, refused where they cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.artifact import TensorInfo
from edge.datasets.samples import export_data, parse_preprocessing
from edge.datasets.video import count_frames, read_frames
from edge.errors import BadInput

av = pytest.importorskip("av")
IMAGE = TensorInfo(name="image", shape=(None, 3, 16, 16), dtype="float32")
HOW = parse_preprocessing("size=16x16,order=rgb")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey frames of 32 x 48, each brighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for level in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_frames_come_in_their_order(video: Path) -> None:
    assert count_frames(video) == 12
    levels = [float(np.asarray(frame).mean()) for frame in read_frames(video, [1, 4, 11])]
    assert levels == pytest.approx([20, 80, 220], abs=6)


def test_a_video_calibrates_and_judges(video: Path) -> None:
    data = export_data(str(video), [IMAGE], preprocessing=HOW, calibration_count=4)
    assert data.name == "video:ramp.mp4" and data.real
    assert data.calibration.inputs[0].shape == (4, 3, 16, 16) and data.judge.inputs[0].shape == (6, 3, 16, 16)
    assert all(np.diff(data.judge.inputs[0].mean((1, 2, 3))) > 0)


def test_what_is_no_video_gets_one_sentence(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "broken.mp4"
    for content in (b"", b"not a video", video.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"broken.mp4: (no video that can be decoded|holds 0 samples)"):
            export_data(str(path), [IMAGE], preprocessing=HOW)
    with pytest.raises(BadInput, match="a video needs its preprocessing"):
        export_data(str(video), [IMAGE])
