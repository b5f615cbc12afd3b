"""Deletes names of consumers that are gone: a consumer that is killed leaves its name in the group."""

from collections.abc import Callable

import redis

from dispatcher.client.group import Group, is_ours
from dispatcher.client.steps import Call, Steps, text
from dispatcher.core.outages import is_redis_outage, reply_of

# A name with pending entries must stay, or they are lost: looked at and deleted in one step, because another process of
# that name may be reading. A name that is deleted while its process lives comes back with its next read.
_DELETE = """
local listed = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
local busy = {}
for _, pairs in ipairs(listed.err and {} or listed) do
  local consumer = {}
  for i = 1, #pairs, 2 do consumer[pairs[i]] = pairs[i + 1] end
  local chosen = consumer.name == ARGV[2] or (ARGV[2] == '' and consumer.idle > tonumber(ARGV[3]))
  if chosen and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  elseif consumer.idle < tonumber(ARGV[4]) and consumer.name ~= ARGV[5] then
    busy[#busy + 1] = consumer.name
  end
end
return busy
"""


class Names:
    """Deletes names without pending entries: of others when they are idle, our own at the end."""

    def __init__(self, call: Callable[..., Call], group: Group, clock: Callable[[], float]) -> None:
        self._call = call  # of one key of the group
        self._group = group
        self._clock = clock
        self._look_at = clock() + self._every_s()
        self._may = True  # False once Redis refused the script

    def delete_idle(self, within_ms: int = 0) -> Steps:
        """Delete the names that have been idle for claim_idle, at most once in that time.

        Returns the other consumers that read the key in the last `within_ms` milliseconds.
        """
        if self._clock() < self._look_at:
            return []
        self._look_at = self._clock() + self._every_s()
        return (yield from self._delete("", self._group.claim_idle_millis, within_ms))

    def _every_s(self) -> float:
        return max(1.0, self._group.claim_idle_millis / 1000)

    def deregister(self) -> Steps:
        """At a stop, delete our own name if nothing is pending under it, or the group would keep it for ever."""
        group = self._group
        yield from self._delete(group.consumer, 0)
        if self._may or not is_ours(group.consumer):  # ours: no other process can read by it between the two
            return
        if not (yield self._call("xpending_range", min="-", max="+", count=1, consumername=group.consumer)):
            yield self._call("xgroup_delconsumer", group.consumer)

    def _delete(self, name: str, idle_ms: int, within_ms: int = 0) -> Steps:
        if not self._may:
            return []
        key, group = self._call("eval").arguments
        try:
            busy = yield Call("eval", (_DELETE, 1, key, group, name, idle_ms, within_ms, self._group.consumer))
            return [text(each) for each in busy]
        except redis.ResponseError as error:
            if is_redis_outage(reply := reply_of(error) or "") and not reply.startswith(("NOPERM", "ERR")):
                raise
            self._may = False  # without the right to run it, names stay: that costs nothing but their lines in XINFO
            return []
