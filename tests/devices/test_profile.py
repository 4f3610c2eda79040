"""Device profiles: what is shipped is whole and has its sources, and what a stranger wrote is read or refused in one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices.figures import Figure
from edge.devices.profile import FOLDER, Profile, load_profile, profile_names
from edge.devices.toml_lines import line_of
from edge.errors import BadInput
from edge.vocabulary import Arch, Precision
from tests.conftest import run_edge

CAMERA = (FOLDER / "camera.toml").read_text()
SHIPPED = {
    "camera", "jetson-nano", "jetson-orin-nano", "nvidia-h200", "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5", "raspberry-pi-zero-2-w",
    "rk3399", "rk3588", "x86-server",
}  # fmt: skip


def read(text: str, folder: Path) -> Profile:
    file = folder / "my.toml"
    file.write_text(text)
    return load_profile(str(file))


def refusal(text: str, folder: Path) -> str:
    """The sentence, without the folder."""
    with pytest.raises(BadInput) as caught:
        read(text, folder)
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(f"{folder}/")


def line_with(text: str, words: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if words in line)


def test_every_device_of_the_issue_is_shipped() -> None:
    assert set(profile_names()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_profile_is_whole_and_each_figure_has_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name and profile.power and profile.runtimes
    assert profile.budgets.frame_rate and profile.budgets.latency_p99
    figures = dict(profile.figures())
    assert {"clusters[0].clock", "memory.bandwidth", "storage.total", "power.busy_core", "budgets.frame_rate"} <= set(figures)
    assert all(len(figure.source) > 10 and figure.base > 0 for figure in figures.values())
    # what is our choice says so
    assert all(figure.source.startswith("assumed: ") for key, figure in figures.items() if key.startswith("budgets.") or key.endswith("_share"))
    assert 0 < profile.memory_limit < profile.memory.total.base and 0 < profile.storage_limit < profile.storage.total.base
    # a board looks at one camera: an inference is due before its next frame
    assert profile.arch is Arch.X86 or profile.budgets.latency_p99.base <= 1 / profile.budgets.frame_rate.base


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_precisions_that_make_sense_are_those_that_the_core_computes_in(name: str) -> None:
    profile = load_profile(name)
    features = set(profile.cluster.isa)
    assert (profile.cluster.ops_per_cycle.fp16 is not None) == ("asimdhp" in features)
    if profile.arch is Arch.ARM:
        assert {"fp", "asimd"} <= features
        fast_int8 = profile.cluster.ops_per_cycle.of(Precision.INT8)
        assert fast_int8 and (fast_int8.base > 2 * profile.cluster.ops_per_cycle.fp32.base) == ("asimddp" in features)
        assert all(("asimdhp" in features) or Precision.FP16 not in runtime.precisions for runtime in profile.runtimes)


def test_figures_are_offered_in_base_units(tmp_path: Path) -> None:
    camera = load_profile("camera")
    assert camera.cluster.clock.base == 1.25e9 and camera.memory.total.base == 512 * 2**20
    assert camera.memory_limit == 128 * 2**20 and camera.storage_limit == 32 * 2**20
    budgets = camera.budgets
    assert budgets.latency_p99 and budgets.latency_p99.base == pytest.approx(0.2)
    assert budgets.battery_capacity and budgets.battery_capacity.base == 72_000
    mwh = read(CAMERA.replace('value = 20, unit = "Wh"', 'value = 20_000, unit = "mWh"'), tmp_path)
    assert mwh.budgets.battery_capacity and mwh.budgets.battery_capacity.base == pytest.approx(72_000)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('value = 512, unit = "MiB"', "value = 512", 'memory.total: the unit is missing, write e.g. { value = 4, unit = "GiB", source = "..." }'),
        ('value = 512, unit = "MiB"', 'value = 512, unit = "GHz"', "memory.total.unit: 'GHz' is not one of B, kB, MB, GB, KiB, MiB, GiB"),
        ("value = 512,", "value = -512,", "memory.total.value: -512 is not more than zero"),
        ("value = 512,", "value = 0,", "memory.total.value: 0 is not more than zero"),
        ("value = 512,", "value = nan,", "memory.total.value: must be a number"),
        ("value = 512,", "value = inf,", "memory.total.value: must be a number"),
        ("value = 512,", 'value = "512",', "memory.total.value: must be a number"),
        ("value = 512,", "value = true,", "memory.total.value: must be a number"),
        ("value = 512,", f"value = 1{'0' * 400},", "memory.total.value: must be a number up to 1e+18"),
        ("value = 512,", "valeu = 512,", "memory.total.valeu: unknown key, did you mean 'value'?"),
        ("value = 1.5,", "value = 1.1,", "power.busy_core: 1.1 W is less than the idle power, 1.2 W"),
        ("value = 2, unit", "value = 2.5, unit", "clusters[0].cores.value: 2.5 is not a whole number"),
        ('name = "camera"', 'name = "Camera 1"', "name: a name has only small letters"),
        ('arch = "arm"', 'arch = "mips"', "arch: must be 'x86' or 'arm'"),
        ("schema_version = 1", "schema_version = 2", "schema_version: version '2' is unknown, this tool reads 1"),
        ('isa = ["fp"', 'isa = ["f p"', "isa[0]: 'f p' is not the name of a processor feature"),
        ('precisions = ["fp32", "int8"]', 'precisions = ["fp32", "int4"]', "runtimes[0].precisions[1]: must be 'fp32', 'fp16', 'bf16' or 'int8'"),
        ('qemu_cpu = "cortex-a53"', 'qemu_cpu = "cortex-a53; rm"', "qemu_cpu: should match"),
        ('title = "', r'title = "\u001b[31m', "title: the text holds a line break or a control character"),
        ("title = ", "title ", "not a TOML file: Expected '='"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_file_line_and_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert CAMERA.count(old) >= 1
    text = CAMERA.replace(old, new, 1)
    assert refusal(text, tmp_path).startswith(f"my.toml:{line_with(text, new)}: ") and words in refusal(text, tmp_path)


def test_a_mistyped_table_is_answered_with_the_nearest_name_and_its_line(tmp_path: Path) -> None:
    text = CAMERA.replace("[memory]", "[memroy]")
    assert refusal(text, tmp_path) == f"my.toml:{line_with(text, '[memroy]')}: memroy: unknown key, did you mean 'memory'?"
    assert "\33" not in refusal(f'"\\u001b[31m" = 1\n{CAMERA}', tmp_path)


def test_a_share_is_part_of_the_whole_and_a_figure_has_a_source(tmp_path: Path) -> None:
    too_much = re.sub(r'model_share = \{ value = 25, unit = "%"', 'model_share = { value = 125, unit = "%"', CAMERA, count=1)
    assert "memory.model_share.value: 125 % is more than all of it" in refusal(too_much, tmp_path)
    bare = re.sub(r', source = "assumed: one SPI[^"]*"', "", CAMERA)
    assert "storage.total: the source is missing" in refusal(bare, tmp_path)
    assert "storage.total.source: " in refusal(CAMERA.replace("assumed: one SPI NAND flash", ""), tmp_path)


def test_a_battery_life_needs_a_battery_and_a_device_needs_a_cluster(tmp_path: Path) -> None:
    without = "\n".join(line for line in CAMERA.splitlines() if not line.startswith("battery_capacity"))
    assert "budgets: battery_life without battery_capacity" in refusal(without, tmp_path)
    none = re.sub(r"\[\[clusters\]\].*?\[memory\]", "clusters = []\n[memory]", CAMERA, flags=re.DOTALL)
    assert "clusters: " in refusal(none, tmp_path)


def test_what_a_user_need_not_know_may_be_left_out(tmp_path: Path) -> None:
    text = re.sub(r"\[power\].*", "", CAMERA, flags=re.DOTALL).replace("identity = []\n", "").replace('qemu_cpu = "cortex-a53"\n', "")
    profile = read(text, tmp_path)
    assert profile.power is None and profile.gpu is None and profile.qemu_cpu is None
    assert profile.identity == () and profile.runtimes == () and profile.budgets.frame_rate is None
    assert profile.memory_limit == 128 * 2**20


def test_files_that_are_no_profile_are_refused(tmp_path: Path) -> None:
    assert "my.toml: the file is empty" in refusal("", tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 21))
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    for name, words in (("binary", "not a TOML file"), ("large", "larger than"), ("deep", "not a TOML file"), ("none", "no such device profile")):
        with pytest.raises(BadInput, match=words):
            load_profile(str(tmp_path / f"{name}.toml"))
    with pytest.raises(BadInput, match="larger than"):
        load_profile("/dev/zero")
    with pytest.raises(BadInput, match="cannot be read"):
        load_profile(f"{tmp_path}/")


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown device 'raspbery-pi-5'") as caught:
        load_profile("raspbery-pi-5")
    assert caught.value.hint and "did you mean raspberry-pi-5?" in caught.value.hint and "camera" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2), (("a", 0, "x"), 4), (("a", 1, "x", "unit"), 6), (("a", 1, "b", "c"), 8), (("t", "u", "v"), 10), (("t", "q k"), 11),
        (("t", "w", "deep"), 12), (("fake",), None), (("t", "after"), 16), (("nowhere", "at", "all"), None),
    ],
)  # fmt: skip
def test_keys_are_found_on_their_lines(path: tuple[str | int, ...], line: int | None) -> None:
    text = """# name = 1
name = 1
[[a]]
x = 1
[[a]]
x = { value = 1 }
[a.b]
c = 2
[t]
u.v = 3
"q k" = 4
w = { deep = 5, other = [1, 2] }
s = '''
fake = 1
'''
after = 2
"""
    assert line_of(text, path) == line


LINES = CAMERA.splitlines()


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(LINES) - 1), st.integers(0, 60), st.sampled_from(["delete", "insert", "cut", "double"]), st.text(max_size=8)),
        max_size=4,
    )
)
def test_an_edited_profile_is_read_or_refused(edits: list[tuple[int, int, str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    lines = list(LINES)
    for index, at, how, text in edits:
        line = lines[index]
        lines[index] = {"delete": "", "insert": line[:at] + text + line[at:], "cut": line[:at], "double": f"{line}\n{line}"}[how]
    read_or_refused("\n".join(lines).encode(errors="surrogatepass"), tmp_path_factory)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    read_or_refused(data, tmp_path_factory)


@given(
    value=st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5).map(json.dumps)),
    unit=st.sampled_from(["MiB", "GHz", "%", "", "W", "B"]),
)
def test_any_value_and_unit_are_read_or_refused(value: object, unit: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    written = str(value).lower() if isinstance(value, bool | float) else str(value)
    profile = read_or_refused(CAMERA.replace('value = 512, unit = "MiB"', f'value = {written}, unit = "{unit}"').encode(), tmp_path_factory)
    assert profile is None or (profile.memory.total.unit in ("MiB", "B") and 0 < profile.memory.total.base < float("inf"))


def read_or_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> Profile | None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(data)
    try:
        profile = load_profile(str(file))
    except BadInput as error:
        assert str(file) in error.message and error.message.isprintable()
        return None
    assert all(isinstance(figure, Figure) and figure.source for _, figure in profile.figures())
    return profile


def test_devices_lists_them_for_people_and_programs() -> None:
    shown, listed = run_edge("devices"), run_edge("devices", "--json")
    assert shown.code == listed.code == 0
    assert all(re.search(rf"^{name} ", shown.out, re.MULTILINE) for name in SHIPPED)
    rows = {row["name"]: row for row in json.loads(listed.out)}
    assert set(rows) == SHIPPED and rows["camera"]["memory_limit"] == 128 * 2**20 and rows["nvidia-h200"]["gpu"] == "NVIDIA H200 SXM"


def test_show_prints_every_figure_with_unit_and_source() -> None:
    shown = run_edge("devices", "show", "raspberry-pi-4b")
    assert shown.code == 0
    for key, figure in load_profile("raspberry-pi-4b").figures():
        assert re.search(rf"^{re.escape(key)} +{re.escape(figure.text)} +{re.escape(figure.source)}", shown.out, re.MULTILINE), key
    as_json = json.loads(run_edge("devices", "show", "raspberry-pi-4b", "--json").out)
    assert as_json["memory"]["bandwidth"]["unit"] == "GB/s" and as_json["memory"]["bandwidth"]["source"] and as_json["memory_limit"] == 2**30


def test_a_user_s_own_file_works_the_same(tmp_path: Path) -> None:
    start = run_edge("devices", "show", "camera", "--toml")
    assert start.code == 0 and start.out == CAMERA
    (tmp_path / "mine.toml").write_text(start.out.replace('name = "camera"', 'name = "mine"'))
    shown = run_edge("devices", "show", "./mine.toml", cwd=tmp_path)
    assert shown.code == 0 and shown.out.startswith("mine: ")
    (tmp_path / "mine.toml").write_text(start.out.replace('value = 512, unit = "MiB"', "value = 512"))
    refused = run_edge("devices", "show", "./mine.toml", cwd=tmp_path)
    assert refused.code == 2 and f"mine.toml:{line_with(CAMERA, 'value = 512')}: memory.total: the unit is missing" in refused.err
    assert "Traceback" not in refused.err


def test_help_has_examples_and_an_unknown_device_is_exit_code_2() -> None:
    for arguments in (["devices", "--help"], ["devices", "show", "--help"]):
        ran = run_edge(*arguments)
        assert ran.code == 0 and "edge devices show" in ran.out.split("Example:")[1] and "--json" in ran.out
    ran = run_edge("devices", "show", "nonesuch")
    assert ran.code == 2 and "unknown device" in ran.err and "raspberry-pi-5" in ran.err
