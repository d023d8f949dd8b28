"""Writes trash_seg/models/pairs.csv: what SMP can build of its own encoders and decoders, and at what cost.

    python scripts/pair_facts.py

Takes minutes: every pair is built twice, for the share of a class in parameters and FLOPs.
"""

import csv
import os
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context

import segmentation_models_pytorch as smp

from trash_seg.models.pairs import (
    TABLE_CLASSES,
    TABLE_PATH,
    TABLE_SIZES,
    Pair,
    build_on_meta,
    count_flops,
    count_parameters,
)


def row(pair: Pair) -> dict[str, object]:
    values: dict[str, object] = {"smp": version("segmentation-models-pytorch"), **pair._asdict()}
    del values["options"]
    values["weights"] = " ".join(smp.encoders.encoders[pair.encoder]["pretrained_settings"])
    try:
        model, wider = (build_on_meta(pair, num_classes=n) for n in (TABLE_CLASSES, TABLE_CLASSES + 1))
    except Exception as error:  # SMP and timm refuse pairs with every kind of exception
        return values | {"reason": " ".join(str(error).split()) or type(error).__name__}
    values["parameters"] = count_parameters(model)
    values["parameters_per_class"] = count_parameters(wider) - count_parameters(model)
    for size in TABLE_SIZES:
        flops, wider_flops = (count_flops(network, image_size=size) for network in (model, wider))
        if flops is not None and wider_flops is not None:
            values |= {f"flops_{size}": flops, f"flops_{size}_per_class": wider_flops - flops}
    return values


def main() -> None:
    decoders = [architecture.__name__ for architecture in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    pairs = [Pair(encoder, decoder) for encoder in smp.encoders.encoders for decoder in decoders]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(row, pairs))
    columns = ["smp", "encoder", "decoder", "weights", "reason", "parameters", "parameters_per_class"]
    columns += [f"flops_{size}{suffix}" for size in TABLE_SIZES for suffix in ("", "_per_class")]
    with TABLE_PATH.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
