"""The dataset doctor on a generated file of 100,000 images and 1,000,000 annotations: seconds and memory.

    python -m benchmarks.check

No image is opened (`--annotations-only`). A few defects are put in, and all of them must be found.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import RESULTS_DIR, keep
from trash_seg.compose import compose_config

NUM_POINTS, PER_IMAGE, CHUNK = 16, 10, 10_000
DEFECTS = {"unknown-image": 3, "absurd-coordinates": 2, "outside-image": 5}


def generate(path: Path, *, num_images: int, categories: list[str]) -> None:
    """Writes a COCO file of random polygons with DEFECTS in the first annotations."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, NUM_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    bad = [code for code, number in DEFECTS.items() for _ in range(number)]
    images = (
        json.dumps({"id": i, "file_name": f"images/{i:06}.jpg", "width": 640, "height": 480}) for i in range(num_images)
    )
    with path.open("w") as file:
        names = [{"id": i, "name": name} for i, name in enumerate(categories)]
        file.write(f'{{"categories": {json.dumps(names)}, "images": [{", ".join(images)}], "annotations": [')
        for first in range(0, num_images * PER_IMAGE, CHUNK):
            centers = rng.uniform(60, 400, (CHUNK, 1, 2))
            points = (centers + rng.uniform(5, 55, (CHUNK, NUM_POINTS, 1)) * circle).round(2).reshape(CHUNK, -1)
            entries = []
            for index, polygon in enumerate(points.tolist(), start=first):
                code = bad[index] if index < len(bad) else None
                polygon[0] += {"absurd-coordinates": 1e12, "outside-image": 640}.get(code or "", 0)
                image = -1 if code == "unknown-image" else index // PER_IMAGE
                entry = {"id": index, "image_id": image, "category_id": index % len(categories), "iscrowd": 0}
                entries.append(json.dumps({**entry, "segmentation": [polygon]}))
            file.write((", " if first else "") + ", ".join(entries))
        file.write("]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS_DIR / "check.json")
    arguments = parser.parse_args()
    categories = compose_config([]).data.classes[1:]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        generate(root / "train.json", num_images=arguments.images, categories=categories)
        generate(root / "val.json", num_images=CHUNK // PER_IMAGE, categories=categories)
        command = ["-m", "trash_seg.check", "data=trash", "data.test=null", f"data.root={root}", "--annotations-only"]
        started = time.perf_counter()
        completed = subprocess.run([sys.executable, *command, "--out", name], capture_output=True, text=True)
        elapsed = time.perf_counter() - started
        content = json.loads((root / "check.json").read_text())
        megabytes = (root / "train.json").stat().st_size / 1e6
    assert completed.returncode == 1, completed.stderr
    assert content["counts"] == {code: 2 * number for code, number in sorted(DEFECTS.items())}, content["counts"]
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    num_annotations = arguments.images * PER_IMAGE
    print(f"{arguments.images} images, {num_annotations} annotations, {megabytes:.0f} MB of JSON")
    print(f"{elapsed:.1f} s, {gigabytes:.2f} GB at the peak")
    keep(
        arguments.out, images=arguments.images, annotations=num_annotations, megabytes=megabytes, seconds=elapsed,
        peak_gigabytes=gigabytes,
    )  # fmt: skip


if __name__ == "__main__":
    main()
