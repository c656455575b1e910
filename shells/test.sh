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
# Where bytecode is not kept, every process that a test starts compiles our source again: half a second each.
unset PYTHONDONTWRITEBYTECODE
bin=.venv/bin
# mypy has one core; what else needs no test has the other one.
types="$(mktemp)"
trap 'rm -f "$types"' EXIT
echo "+ $bin/mypy"
if [ -z "$dry_run" ]; then $bin/mypy > "$types" 2>&1 & fi
check $bin/ruff check .
check $bin/lint-imports
if [ -z "$dry_run" ]; then
  wait $! || failed="$failed $bin/mypy"
  cat "$types"
fi
# Each process takes half of the tests in their order, so that what a module's tests share is made once.
check $bin/python -m pytest -n 2 --dist worksteal "$@"

if [ -n "$failed" ]; then
  echo "FAILED:$failed" >&2
  exit 1
fi
