"""What can disturb a measurement, read in a few milliseconds: take it before and after, and compare."""

from __future__ import annotations

import glob
import os
import re
import time

from edge_worker.probes.reading import Unavailable, command, integer, known, text


def state(root: str = "/", vcgencmd: str = "vcgencmd") -> dict:
    """The machine at this moment; None is unknown. ``under_voltage`` and ``throttled_now`` are a Raspberry Pi's."""
    cpus = allowed_cpus()
    throttled = known(_throttled, vcgencmd)
    return {
        "governor": known(_governor, root, cpus),
        "frequency_mhz": known(_frequency_mhz, root, cpus),
        "temperature_c": known(_temperature_c, root),
        "throttle_count": known(_throttle_count, root),
        "under_voltage": None if throttled is None else bool(throttled & 1 << 0),
        "throttled_now": None if throttled is None else bool(throttled & 1 << 2),
        "load_1m": known(_load_1m, root),
        "busy_cpu_s": known(_busy_cpu_s, root),
        "clock": time.time(),
        "monotonic": time.monotonic(),
    }


def others_busy(before: dict, after: dict, own_cpu_s: float) -> float | None:
    """Cores that other processes kept busy between two states, when this one used ``own_cpu_s`` CPU seconds. Ticks are 10 ms."""
    if before["busy_cpu_s"] is None or after["busy_cpu_s"] is None or after["monotonic"] <= before["monotonic"]:
        return None
    others = after["busy_cpu_s"] - before["busy_cpu_s"] - own_cpu_s
    return max(0.0, others / (after["monotonic"] - before["monotonic"]))


def allowed_cpus() -> list:
    """The CPUs this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _readable(read, paths) -> list:
    return [value for value in (known(read, path) for path in paths) if value is not None]


def _cpufreq(root: str, cpus: list, name: str) -> list:
    """Paths of docs.kernel.org/admin-guide/pm/cpufreq.html, one for each CPU."""
    return [os.path.join(root, "sys/devices/system/cpu/cpu%d/cpufreq" % cpu, name) for cpu in cpus]


def _governor(root: str, cpus: list) -> str | None:
    found = {name for name in _readable(text, _cpufreq(root, cpus, "scaling_governor")) if name}
    return "mixed" if len(found) > 1 else next(iter(found), None)


def _frequency_mhz(root: str, cpus: list) -> float | None:
    """Mean over the CPUs: scaling_cur_freq is in kHz; without cpufreq x86 has ``cpu MHz`` in /proc/cpuinfo."""
    found = [kilohertz / 1e3 for kilohertz in _readable(integer, _cpufreq(root, cpus, "scaling_cur_freq")) if kilohertz > 0]
    found = found or _cpuinfo_mhz(root, cpus)
    return sum(found) / len(found) if found else None


def _cpuinfo_mhz(root: str, cpus: list) -> list:
    blocks = text(os.path.join(root, "proc/cpuinfo")).split("\n\n")
    fields = [dict(re.findall(r"^(processor|cpu MHz)\s*:\s*([0-9.]+)$", block, re.MULTILINE)) for block in blocks]
    return [float(f["cpu MHz"]) for f in fields if "cpu MHz" in f and f.get("processor") in set(map(str, cpus)) and float(f["cpu MHz"]) > 0]


def _temperature_c(root: str) -> float | None:
    """The hottest zone. They are in thousandths of a degree (docs.kernel.org/driver-api/thermal/sysfs-api.html); a sensor that is
    switched off reads far out of -40 to 150."""
    zones = _readable(integer, glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp")))
    return max((zone / 1e3 for zone in zones if -40e3 <= zone <= 150e3), default=None)


def _throttle_count(root: str) -> int | None:
    """How often the cores were throttled for heat since boot (Documentation/ABI/testing/sysfs-devices-system-cpu, x86). Hyperthreads
    share a count: only a difference means something. None when any one count is unreadable, lest a difference be made up."""
    counts = [integer(path) for path in glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"))]
    return sum(counts) if counts else None


def _throttled(vcgencmd: str) -> int:
    """``throttled=0x50005``: bit 0 under-voltage, bit 2 throttled, now (raspberrypi.com/documentation/computers/os.html#get_throttled)."""
    found = re.match(r"throttled=0x([0-9a-fA-F]{1,8})\Z", command(vcgencmd, "get_throttled"))
    if not found:
        raise Unavailable("vcgencmd get_throttled printed something else")
    return int(found.group(1), 16)


def _load_1m(root: str) -> float:
    found = re.match(r"([0-9]{1,9}\.[0-9]{2}) ", text(os.path.join(root, "proc/loadavg")))
    if not found:
        raise Unavailable("/proc/loadavg holds no load")
    return float(found.group(1))


def _busy_cpu_s(root: str) -> float:
    """Seconds since boot that the CPUs were not idle, of all CPUs together (proc(5), the first line of /proc/stat): user, nice,
    system, irq, softirq and steal, without idle and iowait; guest time is in user already."""
    found = re.match(r"cpu +((?:[0-9]{1,20} ){7}[0-9]{1,20})\b", text(os.path.join(root, "proc/stat")))
    if not found:
        raise Unavailable("/proc/stat holds no CPU times")
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, found.group(1).split())
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
