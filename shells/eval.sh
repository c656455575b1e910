#!/usr/bin/env bash
# Measures a model: shells/eval.sh configs/eval/shapes.yaml --model tiny data_root=DIR --out OUT
# Arguments go to `ullava eval`; NPROC=n shares the work among n processes.
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" eval "$@"
