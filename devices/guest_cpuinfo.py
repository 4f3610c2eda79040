"""``python guest_cpuinfo.py FILE``, inside the emulation: writes /proc/cpuinfo as Linux would show it there.

The processor itself is asked, by a few bytes of machine code. Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Names of the bits of AT_HWCAP and AT_HWCAP2 (Linux, arch/arm64/include/uapi/asm/hwcap.h), as /proc/cpuinfo shows them.
HWCAP = (
    "fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid", "asimdrdm", "jscvt", "fcma", "lrcpc",
    "dcpop", "sha3", "sm3", "sm4", "asimddp", "sha512", "sve", "asimdfhm", "dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg",
)  # fmt: skip
HWCAP2 = (
    "dcpodp", "sve2", "sveaes", "svepmull", "svebitperm", "svesha3", "svesm4", "flagm2", "frint", "svei8mm", "svef32mm", "svef64mm", "svebf16",
    "i8mm", "bf16", "dgh", "rng", "bti", "mte",
)  # fmt: skip
#: Of x86 the features that decide which kernels run: (leaf, subleaf, register of EAX EBX ECX EDX, bit) of CPUID (Intel SDM, volume 2A) -> name.
CPUID = {
    (1, 0, 2, 12): "fma", (1, 0, 2, 20): "sse4_2", (1, 0, 2, 28): "avx", (1, 0, 2, 29): "f16c", (1, 0, 2, 31): "hypervisor",
    (7, 0, 1, 5): "avx2", (7, 0, 1, 16): "avx512f", (7, 0, 1, 30): "avx512bw", (7, 0, 2, 11): "avx512_vnni", (7, 0, 3, 25): "amx_int8",
    (7, 1, 0, 4): "avx_vnni", (7, 1, 0, 5): "avx512_bf16",
}  # fmt: skip
#: ``mrs x0, midr_el1; ret``
READ_MIDR = "000038d5 c0035fd6"
#: ``void cpuid(leaf, subleaf, uint32_t registers[4])``: push rbx; mov r8,rdx; mov eax,edi; mov ecx,esi; cpuid; four stores; pop rbx; ret
READ_CPUID = "53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3"


#: Memory of the machine code, which must outlive it.
_CODE: list[mmap.mmap] = []


def machine_code(code: str, result: type[ctypes.c_uint64] | None, *arguments: type) -> Callable[..., Any]:
    """A function of those argument and result types."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex(code))
    _CODE.append(memory)
    return ctypes.CFUNCTYPE(result, *arguments)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))


def arm() -> str:
    """In the format of arch/arm64/kernel/cpuinfo.c."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    midr = machine_code(READ_MIDR, ctypes.c_uint64)()
    features = [name for names, kind in ((HWCAP, 16), (HWCAP2, 26)) for bit, name in enumerate(names) if getauxval(kind) >> bit & 1]
    return (
        f"BogoMIPS\t: 100.00\nFeatures\t: {' '.join(features)}\nCPU implementer\t: {midr >> 24 & 0xFF:#04x}\nCPU architecture: 8\n"
        f"CPU variant\t: {midr >> 20 & 0xF:#x}\nCPU part\t: {midr >> 4 & 0xFFF:#05x}\nCPU revision\t: {midr & 0xF}\n\n"
    )


def x86() -> str:
    cpuid, registers = machine_code(READ_CPUID, None, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p), (ctypes.c_uint * 4)()
    flags = []
    for (leaf, subleaf, register, bit), name in CPUID.items():
        cpuid(leaf, subleaf, registers)
        if registers[register] >> bit & 1:
            flags.append(name)
    return f"model name\t: emulated x86-64\nflags\t\t: {' '.join(flags)}\n\n"


if __name__ == "__main__":
    each = arm() if platform.machine() == "aarch64" else x86()
    Path(sys.argv[1]).write_text("".join(f"processor\t: {index}\n{each}" for index in range(os.cpu_count() or 1)))
