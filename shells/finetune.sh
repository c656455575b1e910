#!/usr/bin/env bash
# Second stage: teaches masks and boxes. shells/finetune.sh RECIPE [key=value ...]
# Arguments go to `ullava train`; NPROC=n trains in n processes.
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" train "$@"
