# Makes Redis nodes (host:port each) one Cluster: half of them primaries, each with a replica. Ends when each node says
# that the Cluster is up; where the nodes know one another already, nothing is made.
info() { redis-cli -h "${1%:*}" -p "${1##*:}" CLUSTER INFO | tr -d '\r'; }

# A node says cluster_state:fail for two seconds after its start, also as a member: what it knows of others is what counts.
known=$(info "$1" | grep cluster_known_nodes) || exit
if [ "$known" = cluster_known_nodes:1 ]; then
    nodes=
    for node in "$@"; do # nodes meet by address, not by name
        nodes="$nodes $(getent ahostsv4 "${node%:*}" | cut -d' ' -f1 | head -n 1):${node##*:}"
    done
    redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes || exit
else
    echo "they are a Cluster already"
fi
for node in "$@"; do
    until info "$node" | grep -qx cluster_state:ok; do
        echo "$node does not say yet that the Cluster is up"
        sleep 1
    done
done
