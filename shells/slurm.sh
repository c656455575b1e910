#!/usr/bin/env bash
#SBATCH --job-name=ullava
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
# An example for SLURM, from the checkout: sbatch shells/slurm.sh finetune [RECIPE] [key=value ...]
# One launcher a node, 8 processes each; .venv has to be there already (shells/setup.sh). --dry-run prints the command.
set -euo pipefail
if [ $# -lt 1 ] || { [ "$1" != pretrain ] && [ "$1" != finetune ] && [ "$1" != eval ]; }; then
  if [ "${1:-}" != --dry-run ]; then
    echo "usage: sbatch shells/slurm.sh {pretrain,finetune,eval} [arguments]" >&2
    exit 2
  fi
  set -- finetune --dry-run
fi
# SLURM runs a copy of this file, so the checkout is where the job was submitted.
root="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
script=$1
shift

dry_run=
for argument in "$@"; do
  if [ "$argument" = --dry-run ]; then dry_run=1; fi
done
export NNODES="${SLURM_JOB_NUM_NODES:-2}" NPROC="${SLURM_GPUS_ON_NODE:-8}" MASTER_PORT="${MASTER_PORT:-29500}"
if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
  MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
fi
export MASTER_ADDR="${MASTER_ADDR:-first-node}"
# srun starts this once on every node; SLURM_NODEID is only known there.
node='NODE_RANK=${SLURM_NODEID:-0} exec "$0" "$@"'
echo "+ srun --kill-on-bad-exit=1 bash -c '$node' $root/shells/$script.sh $*"
if [ -n "$dry_run" ]; then
  NODE_RANK=0 exec "$root/shells/$script.sh" "$@"
fi
exec srun --kill-on-bad-exit=1 bash -c "$node" "$root/shells/$script.sh" "$@"
