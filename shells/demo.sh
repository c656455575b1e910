#!/usr/bin/env bash
# Sets everything up, then answers questions about drawn scenes with the built-in model. Arguments go to `ullava demo`.
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" demo "$@"
