#!/usr/bin/env bash
# Several machines under SLURM: sbatch --nodes 2 launch/slurm.sh recipes/math.yaml key=value ...
# Submit from the checkout; its .venv must be visible on every machine.
#SBATCH --job-name=posttrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120

set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "usage: sbatch --nodes N launch/slurm.sh RECIPE [key=value ...]" >&2
  exit 2
fi
gpus=${SLURM_GPUS_ON_NODE:-8}
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER PORT=$((29500 + SLURM_JOB_ID % 1000)) PROCESSES=$((gpus * SLURM_NNODES))

# One task a machine; SLURM_NODEID is known inside the task only, hence the inner shell.
exec srun --kill-on-bad-exit=1 bash -c '
  exec .venv/bin/accelerate launch --config_file launch/multi-node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MASTER" --main_process_port "$PORT" \
    -m posttrain.train "$@"
' posttrain "$@"
