#!/usr/bin/env bash
# One job that trains until the run is complete, however often its time ends:
#
#   sbatch --nodes 8 scripts/slurm/train.sh scripts/accelerate/a100_64.yaml \
#       scripts/train_flare.py flare_13b --run-folder runs/flare_13b
#
# Five minutes before the end of its time all processes get SIGUSR1: they stop behind a whole update
# with the state saved (exit status 138; after SIGTERM 143). Then, and when a process has died or
# hung (75), the job is queued again under its number and goes on where it stopped. Any other failure
# ends it. Not run on Slurm: partition, account and network interface are the site's.
#
#SBATCH --job-name=train
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -uo pipefail

MOST_LOST_RANKS=20 # starts of the job after which a dead process is no bad luck any more

if (($# < 3)); then
    echo "usage: sbatch --nodes N $0 ACCELERATE.yaml SCRIPT RECIPE [options]" >&2
    exit 2
fi

# Data workers are processes, and every rank has threads enough without OpenMP's.
export OMP_NUM_THREADS=1
# A failed collective ends its process instead of waiting for ever.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1
# The flight recorder: where a collective times out, each rank writes its last ones.
export TORCH_FR_BUFFER_SIZE=2000
export TORCH_NCCL_DUMP_ON_TIMEOUT=1
# Gathered units differ in size; without this the gaps between them cost gigabytes.
export PYTORCH_ALLOC_CONF=expandable_segments:True

FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000))
CONFIGURATION=$1
shift

# `accelerate launch`, which alone would turn every failure into status 1.
LAUNCH='
import sys
from accelerate.commands.launch import main
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
try:
    main()
except ChildFailedError as failed:
    sys.exit(failed.get_first_failure()[1].exitcode)
except SignalException as received:
    sys.exit(128 + received.sigval)
'
export FIRST_NODE PORT CONFIGURATION LAUNCH

# A node knows its own number only on itself, hence the shell inside. Slurm signals every process:
# the launcher ignores SIGUSR1, the ranks take it.
# shellcheck disable=SC2016
srun bash -c '
    trap "" USR1
    exec python -u -c "$LAUNCH" --config_file "$CONFIGURATION" --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$FIRST_NODE" --main_process_port "$PORT" "$@"
' launcher "$@"
status=$?

case $status in
138 | 143) again=yes ;;
75) again=$( ((${SLURM_RESTART_COUNT:-0} < MOST_LOST_RANKS)) && echo yes || echo no) ;;
*) again=no ;;
esac
if [[ $again == yes ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
