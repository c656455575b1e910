#!/usr/bin/env bash
# First stage: brings the vision tower's tokens to the language model. shells/pretrain.sh RECIPE [key=value ...]
# Arguments go to `ullava train`; NPROC=n trains in n processes.
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" train "$@"
