#!/usr/bin/env bash
# Shuts this machine down when the cluster's head has been gone for a while: a GPU node would otherwise wait
# for it, and be paid for, until somebody looks.
#
#   head_watch.sh HEAD SECONDS
#
# HEAD is the head's address. Runs on the machine itself, as root, not in Ray's container. The machine must end
# with its shutdown (InstanceInitiatedShutdownBehavior: terminate on AWS).
set -euo pipefail

[ $# -eq 2 ] && [[ $2 =~ ^[0-9]+$ ]] || {
    echo "usage: head_watch.sh HEAD SECONDS" >&2
    exit 2
}
head=$1
limit=$2

answers() {
    # Ray's own port; a connection that is refused or never answered is no head.
    # shellcheck disable=SC2016  # the inner shell's
    timeout 10 bash -c ': < "/dev/tcp/$0/6379"' "$head" 2> /dev/null
}

# SECONDS does not jump with the clock.
seen=$SECONDS
until [ $((SECONDS - seen)) -ge "$limit" ]; do
    sleep 10
    if answers; then seen=$SECONDS; fi
done
echo "head_watch: $head has not answered for $2 s: shutting down"
shutdown -h now
