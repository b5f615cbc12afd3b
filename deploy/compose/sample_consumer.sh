# Reads the stream as the consumer group `sample`, until stopped. What it reads is acknowledged at once and thrown away: it
# is here so that the figures of a group move. A consumer that works is in docs/how-to/consume.md.
host="${REDIS_HOST:-redis}" port="${REDIS_PORT:-6379}" stream="${DISPATCH_STREAM_NAME:-sanctum:messages}"
run() { redis-cli -h "$host" -p "$port" "$@"; }

until run XGROUP CREATE "$stream" sample 0 MKSTREAM 2>&1 | grep -q -e OK -e BUSYGROUP; do sleep 1; done
while run XREADGROUP GROUP sample reader COUNT 500 BLOCK 2000 NOACK STREAMS "$stream" '>' > /dev/null; do :; done
