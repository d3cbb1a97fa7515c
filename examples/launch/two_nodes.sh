#!/usr/bin/env bash
# Two machines without a queue. On each, at the same time:
#
#   machine 0:  examples/launch/two_nodes.sh 0 ADDRESS_OF_MACHINE_0 --config run.yaml
#   machine 1:  examples/launch/two_nodes.sh 1 ADDRESS_OF_MACHINE_0 --config run.yaml
#
# What follows goes to `polylens train` and must be the same on both. Both read the same data and model, and write to
# the same --output-dir, on a file system that they share. PROCESSES is the number of GPUs of a machine (8), PORT a free
# port of machine 0 (29500).
set -euo pipefail
node=$1 address=$2
shift 2
exec torchrun --nnodes 2 --node-rank "$node" --nproc-per-node "${PROCESSES:-8}" \
    --master-addr "$address" --master-port "${PORT:-29500}" -m polylens train "$@"
