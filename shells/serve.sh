#!/usr/bin/env bash
# Sets everything up, then answers over HTTP: shells/serve.sh --model tiny --port 8000
# Arguments go to `ullava serve`; one process, whatever NPROC says.
NPROC=1 NNODES=1 exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" serve "$@"
