# Makes Redis nodes (host:port each) one Cluster, once: half of them primaries, each with a replica.
if redis-cli -h "${1%:*}" -p "${1##*:}" CLUSTER INFO | grep -q cluster_state:ok; then
    echo "they are a Cluster already"
    exit 0
fi
nodes=
for node in "$@"; do # nodes meet by address, not by name
    nodes="$nodes $(getent ahostsv4 "${node%:*}" | cut -d' ' -f1 | head -n 1):${node##*:}"
done
exec redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes
