#!/usr/bin/env bash
#SBATCH --job-name=ullava
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
# An example for SLURM: a training that is queued again until it is finished, from the checkout:
#   sbatch shells/slurm_requeue.sh OUT RECIPE [key=value ...]
# Five minutes before its time is up every process gets SIGTERM, writes a checkpoint together with the others and leaves
# with 143; the job is then queued again and goes on from OUT. .venv has to be there already (shells/setup.sh).
# --dry-run prints the command. srun starts the processes itself: torchrun would end them after 30 seconds, and make 1
# of their 143.
set -euo pipefail
dry_run=
for argument in "$@"; do
  shift
  if [ "$argument" = --dry-run ]; then dry_run=1; else set -- "$@" "$argument"; fi
done
if [ -z "$dry_run" ] && [ $# -lt 2 ]; then
  echo "usage: sbatch shells/slurm_requeue.sh OUT RECIPE [key=value ...]" >&2
  exit 2
fi
# SLURM runs a copy of this file, so the checkout is where the job was submitted.
root="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
out=${1:-runs/mine}
shift $(($# < 1 ? 0 : 1))

MASTER_ADDR="$(hostname)"
if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
  MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
fi
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-29500}"
if [ -d "$out" ]; then set -- "$@" --resume; fi
# What torchrun would tell a process, SLURM knows; one process alone is told nothing.
process='if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
fi
exec "$0" "$@"'
set -- bash -c "$process" "$root/.venv/bin/ullava" train "$@" --out "$out"
if [ -n "$dry_run" ]; then
  echo "+ srun --wait=120 $*"
  exit 0
fi
status=0
srun --wait=120 "$@" || status=$?  # where one process fails, the others get two minutes
if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
else
  exit "$status"
fi
