"""`python -m trash_seg.train`: from Hydra to one plain Config, and to the job."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trash_seg.compose import CONF_DIR, report_errors
from trash_seg.config import register, to_config
from trash_seg.console import lasting_output
from trash_seg.job import RunFailed, run

register()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def train(composed: DictConfig) -> str:
    """One job, as every launcher calls it. Returns the state that the run ended in."""
    hydra_config = HydraConfig.get()
    outcome = run(
        to_config(composed),
        Path(hydra_config.runtime.output_dir),
        overrides=[str(override) for override in hydra_config.overrides.task],
    )
    if outcome.exit_code:  # the log has said why
        if hydra_config.mode is RunMode.RUN:
            sys.exit(outcome.exit_code)
        raise RunFailed(outcome)
    return outcome.state


def main() -> int:
    """Returns the exit code of the process."""
    # Hydra then raises its errors instead of printing them, so that every error is shown the same way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # argparse takes overrides in one piece; -m may stand anywhere among them.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))

    def command() -> int:
        try:
            train()
        except RunFailed as failed:
            return failed.outcome.exit_code
        return 0

    with lasting_output():
        return report_errors(command)


if __name__ == "__main__":
    sys.exit(main())
