#!/usr/bin/env bash
# Sets everything up, then runs one ullava command: shells/launch.sh COMMAND [arguments]. The other launchers call it.
# NPROC=n runs it in n processes (torchrun); --dry-run anywhere prints the commands instead of running them.
# On several nodes, run it on each with NNODES=m NODE_RANK=0..m-1 MASTER_ADDR=first-node [MASTER_PORT=29500] NPROC=n.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

dry_run=
for argument in "$@"; do
  shift
  if [ "$argument" = --dry-run ]; then dry_run=--dry-run; else set -- "$@" "$argument"; fi
done

"$root/shells/setup.sh" $dry_run
if [ "${NNODES:-1}" -gt 1 ]; then
  : "${NODE_RANK:?says which of the NNODES nodes this is, from 0}" "${MASTER_ADDR:?says where node 0 is}"
  set -- "$root/.venv/bin/torchrun" --nnodes="$NNODES" --node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR" \
    --master-port="${MASTER_PORT:-29500}" --nproc-per-node="${NPROC:-1}" -m ullava "$@"
elif [ "${NPROC:-1}" -gt 1 ]; then
  set -- "$root/.venv/bin/torchrun" --standalone --nproc-per-node="$NPROC" -m ullava "$@"
else
  set -- "$root/.venv/bin/ullava" "$@"
fi
echo "+ $*"
if [ -z "$dry_run" ]; then exec "$@"; fi
