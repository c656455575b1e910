#!/usr/bin/env bash
# Second stage: teaches masks and boxes. shells/finetune.sh [RECIPE] [key=value ...]
# Without a recipe: ullava_stage2. Arguments go to `ullava train`; processes and nodes: see launch.sh.
case "${1:-}" in "" | -* | *=*) set -- ullava_stage2 "$@" ;; esac
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" train "$@"
