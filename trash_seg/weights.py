"""Brings pretrained weights into a folder, for machines without a network.

    python -m trash_seg.weights fetch encoder=resnet18,efficientnet-b3 runtime.weights_dir=weights

Takes train's settings: encoder (several by comma), encoder.weights (default imagenet), decoder, runtime.weights_dir.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from trash_seg.compose import compose_config, report_errors
from trash_seg.errors import ConfigError, WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] != "fetch":
        print(__doc__.strip())
        return 0 if arguments in (["--help"], ["-h"]) else 2
    return report_errors(lambda: fetch(arguments[1:]))


def fetch(overrides: Sequence[str]) -> int:
    """Downloads the weights of every named encoder that the folder does not hold yet.

    Raises:
        ConfigError: No encoder is named, or its weights are null.
        WeightsError: SMP does not list the weights, or the hub cannot be reached.
    """
    encoders = [o.removeprefix("encoder=").split(",") for o in overrides if o.startswith("encoder=")]
    if not encoders:
        raise ConfigError("encoder is missing: python -m trash_seg.weights fetch encoder=resnet18")
    others = [o for o in overrides if not o.startswith("encoder=")]
    for name in encoders[-1]:
        _fetch_one([f"encoder={name}", "data.encoder_weights=imagenet", *others])
    return 0


def _fetch_one(overrides: Sequence[str]) -> None:
    from trash_seg.models import pretrained

    config = compose_config(overrides)
    if config.encoder.weights is None:
        raise ConfigError("encoder.weights=null: there is nothing to fetch")
    pretrained.check_listed(config.encoder)
    path = pretrained.weights_path(config.encoder, config.runtime.weights_dir or "weights")
    if path.exists():
        print(f"{path} is there already")
        return
    try:
        state = pretrained.download(config)
    except Exception as error:  # whatever the hub's client and its transport raise
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise WeightsError(
            f"encoder={config.encoder.name}: its {config.encoder.weights} weights cannot be fetched ({cause}). "
            "Run this where the hub can be reached, and copy the folder"
        ) from error
    pretrained.save(state, path)
    print(f"{path}  ({path.stat().st_size / 2**20:.0f} MiB); use it with runtime.weights_dir={Path(path).parent}")


if __name__ == "__main__":
    sys.exit(main())
