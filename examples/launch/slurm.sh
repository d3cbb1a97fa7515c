#!/usr/bin/env bash
# One task for each GPU, on any number of nodes:
#
#   sbatch --nodes 2 examples/launch/slurm.sh --config run.yaml
#
# What follows the script goes to `polylens train`. A job that is preempted and queued again goes on from its last
# checkpoint, because the script says --resume-from-checkpoint true.
#SBATCH --job-name=polylens
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# The first node is where ranks meet; the port depends on the job, since jobs may share a node.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# In each task, the names by which torch, accelerate and DeepSpeed know it. GPUs belong to the node (--gpus-per-node),
# not to the task: every task sees all of them and takes the one with its local number.
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-$((SLURM_NTASKS / SLURM_NNODES))}
    exec python -m polylens train --resume-from-checkpoint true "$@"
' task "$@"
