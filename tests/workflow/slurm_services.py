"""A Slurm of one's own on this machine: munged, slurmctld and two nodes of one core each, in a folder."""

import getpass
import os
import platform
import shutil
import subprocess
import time
from contextlib import contextmanager

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo", "sacct")
NODES = ("node1", "node2")
CONF = """\
ClusterName=simcsp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=3600
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def path_with_sbin():
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def missing_commands():
    return [name for name in COMMANDS if shutil.which(name, path=path_with_sbin()) is None]


@contextmanager
def slurm(folder, port=17100):
    """The environment in which Slurm's commands speak to a cluster that lives as long as the block."""
    folder.mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={platform.node()} NodeAddr=127.0.0.1 Port={port + number} CPUs=1 "
        "RealMemory=8000 State=UNKNOWN"
        for number, name in enumerate(NODES, 1)
    )
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    host, user = platform.node(), getpass.getuser()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, user=user, port=port, nodes=nodes))
    srun = folder / "bin/srun"  # for jobs: Snakemake's executor takes Slurm's variables out of their environment
    srun.parent.mkdir()
    path = path_with_sbin()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun", path=path)} "$@"\n')
    srun.chmod(0o755)
    environment = os.environ | {"PATH": f"{srun.parent}:{path}", "SLURM_CONF": str(conf)}
    munged = ["munged", "--foreground", "--force", "--num-threads=1", f"--key-file={key}"]
    for name in ("socket", "pid-file", "log-file", "seed-file"):
        munged.append(f"--{name}={folder}/munge.{name.removesuffix('-file')}")
    running = []
    try:
        for command in (munged, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)):
            log = open(
                folder / f"{'-'.join(command[:1] + command[3:])[:20].replace('/', '')}.out", "w", encoding="utf-8"
            )
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
            time.sleep(1)
        end = time.monotonic() + 60
        while "idle" not in states(environment):
            assert time.monotonic() < end, f"no node is idle: {states(environment)}; see {folder}"
            time.sleep(0.5)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=60)


def states(environment):
    return subprocess.run(["sinfo", "-h", "-N", "-o", "%N %T"], env=environment, capture_output=True, text=True).stdout
