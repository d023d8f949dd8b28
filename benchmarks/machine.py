"""What benchmarks share: a job's settings, how values are shown, where results are kept, and with what."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "segmentation-models-pytorch", "numpy", "opencv-python-headless", "albumentations", "pillow",
    "pycocotools",
)  # fmt: skip
RESULTS_DIR = Path(__file__).parent / "results"


def describe_machine(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Processor, GPU, versions, load and date."""
    import torch

    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu or platform.processor(),
        "bf16": any("avx512_bf16" in line or "amx_bf16" in line for line in _lines("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def job_settings(data: Path, pair: str, *, size: int) -> list[str]:
    """Overrides for the log's setting, from scratch. ENCODER:DECODER may list several of each, for `-m`."""
    encoder, decoder = pair.split(":")
    return [
        "data=trash", f"data.root={data.resolve()}", "training=log", f"encoder={encoder}", "encoder.weights=null",
        f"decoder={decoder}", f"training.image_size={size}",
    ]  # fmt: skip


def precisions() -> str:
    """Those that this machine computes in at speed, separated by commas."""
    import torch

    from trash_seg.engine.precision import has_bf16

    on_cuda = torch.cuda.is_available()
    return ",".join(["fp32", *(["bf16"] if on_cuda or has_bf16() else []), *(["fp16"] if on_cuda else [])])


def spread(values: Sequence[float]) -> str:
    """Median (least to greatest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def keep(path: Path, **results: Any) -> None:
    """Writes the results beside the command that made them and the machine."""
    module = Path(sys.argv[0]).stem
    command = " ".join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, "machine": describe_machine(), **results}, indent=1) + "\n")
    print(f"written to {path}")


def _lines(path: str) -> Iterator[str]:
    if Path(path).exists():
        yield from Path(path).read_text().splitlines()
