# Reads the stream as the consumer group `sample`, until stopped. What it reads is acknowledged at once and thrown away: it
# is here so that the figures of a group move. A consumer that works is in docs/how-to/consume.md. Of several shards each has a
# reader, for in a Redis Cluster they lie on several nodes.
host="${REDIS_HOST:-redis}" port="${REDIS_PORT:-6379}" name="${DISPATCH_STREAM_NAME:-sanctum:messages}"
shards="${DISPATCH_STREAM_SHARDS:-1}" cluster=
[ "$shards" = 1 ] || cluster=-c
run() { redis-cli $cluster -h "$host" -p "$port" "$@"; }

read_all() {
    until run XGROUP CREATE "$1" sample 0 MKSTREAM 2>&1 | grep -q -e OK -e BUSYGROUP; do sleep 1; done
    while run XREADGROUP GROUP sample reader COUNT 500 BLOCK 2000 NOACK STREAMS "$1" '>' > /dev/null; do :; done
}

[ "$shards" = 1 ] && read_all "$name" && exit
trap 'kill 0' TERM INT
shard=0
while [ "$shard" -lt "$shards" ]; do
    (while :; do read_all "$name:{$shard}"; sleep 1; done) &
    shard=$((shard + 1))
done
wait
