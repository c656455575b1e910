#!/usr/bin/env bash
# Sets everything up, then runs one ullava command: shells/launch.sh COMMAND [arguments]. The other launchers call it.
# NPROC=n runs it in n processes (torchrun); --dry-run anywhere prints the commands instead of running them.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

dry_run=
for argument in "$@"; do
  shift
  if [ "$argument" = --dry-run ]; then dry_run=--dry-run; else set -- "$@" "$argument"; fi
done

"$root/shells/setup.sh" $dry_run
if [ "${NPROC:-1}" -gt 1 ]; then
  set -- "$root/.venv/bin/torchrun" --standalone --nproc-per-node="$NPROC" -m ullava "$@"
else
  set -- "$root/.venv/bin/ullava" "$@"
fi
echo "+ $*"
if [ -z "$dry_run" ]; then exec "$@"; fi
