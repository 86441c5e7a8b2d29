"""What a device could do at best, which its use is measured against, and the most memory that was held."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

GB = 1e9


@dataclass(frozen=True)
class Peak:
    """A device at its best, as its maker states it; None where that is not known.

    Attributes:
        device: its name.
        tflops: dense bfloat16 matrix products with float32 sums, in 10^12 operations a second.
        bandwidth_gbs: of its memory, in 10^9 bytes a second.
    """

    device: str
    tflops: float | None = None
    bandwidth_gbs: float | None = None

    def times(self, devices: int) -> Peak:
        """What so many of it do together."""
        both = (None if figure is None else figure * devices for figure in (self.tflops, self.bandwidth_gbs))
        return Peak(self.device if devices == 1 else f"{devices} x {self.device}", *both)


GPUS: Mapping[str, tuple[float, float]] = {
    # HGX and DGX B200, at 1,000 W: 4,500 with sparsity.
    "NVIDIA B200": (2250, 8000),
    # H200's data sheet: SXM 1,979 with sparsity, NVL 1,671.
    "NVIDIA H200": (989, 4800),
    "NVIDIA H200 NVL": (835, 4800),
    # H100's data sheet: SXM 1,979 with sparsity, PCIe 1,513.
    "NVIDIA H100 80GB HBM3": (989, 3350),
    "NVIDIA H100 PCIe": (756, 2000),
    # A100's data sheet: 624 with sparsity, whatever the form.
    "NVIDIA A100-SXM4-80GB": (312, 2039),
    "NVIDIA A100 80GB PCIe": (312, 1935),
    "NVIDIA A100-SXM4-40GB": (312, 1555),
    "NVIDIA A100-PCIE-40GB": (312, 1555),
    # Data sheets, with sparsity: A40 299.4, A10 250, L40S 733, L40 362.1, L4 242.
    "NVIDIA A40": (149.7, 696),
    "NVIDIA A10": (125, 600),
    "NVIDIA L40S": (362, 864),
    "NVIDIA L40": (181, 864),
    "NVIDIA L4": (121, 300),
    # Their white papers (GB202, AD102, GA102). Sums in float32 go at half the rate of those in float16, for which the
    # first and the last state 838 with sparsity and 142 without.
    "NVIDIA GeForce RTX 5090": (209.5, 1792),
    "NVIDIA GeForce RTX 4090": (165.2, 1008),
    "NVIDIA GeForce RTX 3090": (71, 936),
}
"""By torch's name of the device: TFLOP/s and GB/s, as NVIDIA states them; of a figure with sparsity half. Names are
matched whole: a variant, or a part of a card (MIG), has other figures. A device whose figures were not found, or
differ from source to source (H100 NVL, GH200), is left out."""


def peak_of(device: torch.device, tflops: float | None = None, bandwidth_gbs: float | None = None) -> Peak:
    """What a device can do at best: what is given, else what is known of it.

    >>> peak_of(torch.device("cpu"), tflops=0.5)
    Peak(device='cpu', tflops=0.5, bandwidth_gbs=None)
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    known = GPUS.get(name, (None, None))
    return Peak(name, tflops or known[0], bandwidth_gbs or known[1])


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _CLEAR.write_text(_HIGHEST)


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory held since `forget_peak_memory`, in 10^9 bytes, under a name that says what was measured.

    On CUDA what torch's allocator gave out (``peak_allocated_gb``); on a CPU what of the whole process was resident,
    libraries included (``peak_rss_gb``), or ``process_peak_rss_gb``, since the process began, where it cannot be reset.
    """
    if device.type == "cuda":
        return {"perf/peak_allocated_gb": torch.cuda.max_memory_allocated(device) / GB}
    with suppress(OSError, StopIteration):
        _CLEAR.open("a").close()
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return {"perf/peak_rss_gb": int(line.split()[1]) * 1024 / GB}
    # macOS counts bytes, Linux KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"perf/process_peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB}


# Linux: proc(5). Writing 5 resets the highest resident size, and nothing else.
_CLEAR, _STATUS, _HIGHEST = Path("/proc/self/clear_refs"), Path("/proc/self/status"), "5"
