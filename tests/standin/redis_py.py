# The cluster client of redis-py: stores keys, and waits until somebody else has deleted them.
#
#   PYTHONPATH=DIR python3 tests/standin/redis_py.py PORT PREFIX COUNT      DIR holds redis-py
#
# It says how many of its keys it finds, waits for a line, and then looks until none is left, 30 seconds at most.

import sys
import time

from redis.cluster import RedisCluster

port, prefix, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
cluster = RedisCluster(host="127.0.0.1", port=port, socket_timeout=10)
keys = [f"{prefix}{number}" for number in range(1, count + 1)]
cluster.mset_nonatomic({key: "old" for key in keys})
print(sum(value == b"old" for value in cluster.mget_nonatomic(keys)), flush=True)
sys.stdin.readline()
until = time.monotonic() + 30
while left := [key for key, value in zip(keys, cluster.mget_nonatomic(keys)) if value is not None]:
    if time.monotonic() > until:
        sys.exit(f"{len(left)} of {count} keys are left, {left[0]} among them")
    time.sleep(0.02)
