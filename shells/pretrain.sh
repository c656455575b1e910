#!/usr/bin/env bash
# First stage: brings the vision tower's tokens to the language model. shells/pretrain.sh [RECIPE] [key=value ...]
# Without a recipe: ullava_core_stage1. Arguments go to `ullava train`; processes and nodes: see launch.sh.
case "${1:-}" in "" | -* | *=*) set -- ullava_core_stage1 "$@" ;; esac
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" train "$@"
