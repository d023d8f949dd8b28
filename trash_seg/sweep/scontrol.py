"""Questions to Slurm."""

import subprocess

from trash_seg.errors import UserError

INTERRUPTED = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT")
"""Slurm's states of jobs that were ended from outside."""


def ask(*command: str) -> str:
    """What a command of Slurm's prints.

    Raises:
        UserError: It fails.
    """
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise UserError(f"hydra/launcher=slurm: {command[0]} fails: {last_line(answer.stderr)}")
    return answer.stdout


def max_array_size() -> int:
    """Jobs that one array may hold, as the site has set it."""
    for line in ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    return 1001  # Slurm's default


def end_of(job_id: str | None) -> tuple[str, str]:
    """How Slurm says that a job ended, while it remembers: the state of a run that could not say so itself, the cause.

    One that a person or the cluster has ended is to be continued; it says nothing against the run.
    """
    job = f"its Slurm job {job_id}"
    lost = "failed", f"{job} has left the queue"
    if job_id is None:
        return lost
    try:
        words = ask("scontrol", "show", "job", "--oneliner", job_id).split()
    except UserError:
        return lost
    ended = next((word.partition("=")[2] for word in words if word.startswith("JobState=")), "")
    if not ended:
        return lost
    return "interrupted" if ended in INTERRUPTED else "failed", f"{job} ended {ended}"


def last_line(text: str) -> str:
    """Where programs say what went wrong."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
