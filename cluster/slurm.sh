#!/usr/bin/env bash
# A study on a Slurm cluster: Ray on all nodes of the job, the study on the first. In the root of the
# checkout:
#     sbatch --nodes=4 cluster/slurm.sh table_03 --profile paper --data voc:/shared/VOC --output /shared/out
# All arguments are run_study.py's. --output is a folder that all nodes share, and so is the checkout;
# `python` must be the project's own (activate its environment before sbatch). At the time limit the study ends
# in order and the job goes back into the queue, and goes on when its turn comes.

# ------------------------------------------------------------------------------------------------- EDIT THESE
#SBATCH --job-name=drcnn
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# ------------------------------------------------------------------------------------------------------------
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
# All of the nodes' memory; many sites give a job little unless it asks.
#SBATCH --mem=0
# A node that fails takes its trials along, not the job.
#SBATCH --no-kill
# Five minutes to end in order, before the time limit kills everything; USR1, for scancel sends TERM.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

fail() {
    echo "slurm.sh: $*" >&2
    exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "start it with sbatch, or within salloc"
cd "${SLURM_SUBMIT_DIR:-.}"
[ -f studies/run_study.py ] || fail "$PWD has no studies/run_study.py: run sbatch in the root of the checkout"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Jobs that share a node get ports and folders of their own.
port=$((20000 + SLURM_JOB_ID % 2500 * 4))
address=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
# Known to this job's processes only; srun hands its environment on.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")

steps=()
study=
is_time_up=
# The study first, which closes its runs; INT, for ray.init takes TERM for itself. Then Ray on all nodes.
# shellcheck disable=SC2329  # called by the trap
finish() {
    local code=$?
    trap '' TERM INT USR1
    [ -z "$study" ] || { kill -INT "$study" && wait "$study"; } 2> /dev/null || true
    [ ${#steps[@]} -eq 0 ] || { kill -TERM "${steps[@]}" && wait "${steps[@]}"; } 2> /dev/null || true
    # After a failure Ray's logs stay on the nodes.
    [ "$code" -ne 0 ] || srun --nodes=${#nodes[@]} --ntasks=${#nodes[@]} --ntasks-per-node=1 \
        --nodelist="$(IFS=,; echo "${nodes[*]}")" rm -rf "/tmp/ray-$SLURM_JOB_ID" || true
    # Slurm ends this script here.
    [ -z "$is_time_up" ] || scontrol requeue "$SLURM_JOB_ID"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'is_time_up=1; exit 143' USR1

ray_on() { # NUMBER OF NODES, THEIR NAMES, OPTIONS OF ray start ...
    srun --nodes="$1" --ntasks="$1" --ntasks-per-node=1 --nodelist="$2" --no-kill --kill-on-bad-exit=0 \
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        ray start --block --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${resources[@]}" "${@:3}" &
    steps+=($!)
}

joined() { # NUMBER OF NODES
    python - "$1" <<'PYTHON' || fail "only some of ${nodes[*]} joined Ray at $RAY_ADDRESS within five minutes"
import sys, time, ray
until = time.monotonic() + 300
while time.monotonic() < until:
    try:
        if not ray.is_initialized():
            ray.init(address="auto", log_to_driver=False, logging_level="CRITICAL")
        if sum(node["Alive"] for node in ray.nodes()) >= int(sys.argv[1]):
            sys.exit()
    except (ConnectionError, RuntimeError, ValueError):
        pass
    time.sleep(2)
sys.exit(1)
PYTHON
}

ray_on 1 "${nodes[0]}" --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 \
    --dashboard-port=$((port + 1)) --ray-client-server-port=$((port + 2))
export RAY_ADDRESS=$address:$port
joined 1
others=("${nodes[@]:1}")
if [ ${#others[@]} -gt 0 ]; then
    ray_on ${#others[@]} "$(IFS=,; echo "${others[*]}")" --address="$RAY_ADDRESS"
    joined ${#nodes[@]}
fi

# In the background: the shell answers Slurm's signal at once, not after the study.
python studies/run_study.py "$@" --address auto &
study=$!
wait "$study" && code=0 || code=$?
study=
exit "$code"
