"""A Slurm of the tests' own: one node, this machine, with its own keys, ports and folder.

A requeued job waits until the credentials of its former start have expired (`cred_expire`, two minutes by default). One
that is made to start sooner is now and then killed: "Job credential revoked".
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")

needs_slurm = pytest.mark.skipif(
    any(shutil.which(name) is None for name in DAEMONS) or os.geteuid() != 0,
    reason="needs Slurm and munge (apt-get install slurm-wlm munge), and root",
)

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=20
MinJobAge=3600
MaxArraySize=4
JobRequeue=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 CpuBind=core State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition, *, seconds: float, what: str) -> None:
    """Polls a condition; the only way to know of a daemon's or a job's progress is to ask."""
    end = time.monotonic() + seconds
    while not condition():
        late = time.monotonic() > end
        assert not late or condition(), f"{seconds} s have passed without: {what}"  # it may be this process that slept
        time.sleep(0.2)


@contextmanager
def running_cluster(folder: Path):
    """Starts munged, slurmctld and slurmd; yields the environment in which sbatch and the others find them."""
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    values = {"controller_port": _free_port(), "node_port": _free_port()}
    conf.write_text(CONF.format(host=socket.gethostname(), folder=folder, **values))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    munged = ["munged", "--foreground", "--force", "--key-file", str(key), "--socket", f"{folder}/munge.socket"]
    munged += [
        "--pid-file",
        f"{folder}/munge.pid",
        "--log-file",
        f"{folder}/munge.log",
        "--seed-file",
        f"{folder}/seed",
    ]
    commands = [munged, ["slurmctld", "-D", "-f", str(conf)], ["slurmd", "-D", "-f", str(conf)]]
    processes = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as out:
                processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                wait_until((folder / "munge.socket").exists, seconds=120, what="munged's socket")
        wait_until(lambda: _idle(environment), seconds=120, what="an idle node")
        yield environment
    finally:
        subprocess.run(
            ["scancel", "--signal=KILL", "--user", "root"], env=environment, capture_output=True, check=False
        )
        with suppress(AssertionError):
            wait_until(lambda: not _queue(environment), seconds=30, what="an empty queue")
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _queue(environment: dict[str, str]) -> str:
    """Running jobs; a daemon that is gone has none."""
    command = ["squeue", "--noheader", "--states=R,CG"]
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False).stdout


def _idle(environment: dict[str, str]) -> bool:
    answer = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, text=True, capture_output=True, check=False)
    return "idle" in answer.stdout
