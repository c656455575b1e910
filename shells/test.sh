#!/usr/bin/env bash
# Sets everything up, then lint, types, import directions and the whole test suite. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=
for argument in "$@"; do
  shift
  if [ "$argument" = --dry-run ]; then dry_run=--dry-run; else set -- "$@" "$argument"; fi
done
shells/setup.sh $dry_run

failed=
check() {
  echo "+ $*"
  if [ -z "$dry_run" ]; then "$@" || failed="$failed $1"; fi
}

# One thread for each of the two test processes: more only makes them wait for each other.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
bin=.venv/bin
check $bin/ruff check .
check $bin/mypy
check $bin/lint-imports
check $bin/python -m pytest -n 2 "$@"

if [ -n "$failed" ]; then
  echo "FAILED:$failed" >&2
  exit 1
fi
