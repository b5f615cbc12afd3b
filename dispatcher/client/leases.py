"""Who reads a shard of a stream that is read in order: one consumer at a time, by a lease in Redis with a token.

A lease is a hash beside the key of its shard: `holder`, `token`, and `until` in milliseconds of Redis's clock. The
token rises each time the lease is taken. All that a holder does to its shard it does by a script that compares
holder and token first, reading included: a consumer that was frozen for longer than its lease can take no entry and
acknowledge none. The first lease of those that a reader asks for also says which consumers there are (`c:<name>`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Literal

from redis.exceptions import NoScriptError

from dispatcher.client.group import Group
from dispatcher.client.shard import Shard
from dispatcher.client.steps import Call, Steps, text

Verb = Literal["look", "take", "keep", "drop"]

# KEYS: leases. ARGV: me, the milliseconds that I am remembered for, and for each lease: a verb, my token, and the
# milliseconds that it is to last. Answers with the names of all consumers, then for each lease: its holder ("": it is
# free), its token, whether it is mine. The token is a time, so it rises even if the lease was lost with Redis's data.
LEASES = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {{}}
for i, lease in ipairs(KEYS) do
  local verb, mine, lasts = ARGV[3 * i], ARGV[3 * i + 1], tonumber(ARGV[3 * i + 2])
  local found = redis.call('HMGET', lease, 'holder', 'token', 'until')
  local holder, token, ends = found[1] or '', found[2] or '0', tonumber(found[3] or 0)
  local is_mine = holder == ARGV[1] and token == mine
  if verb == 'take' and (holder == '' or ends <= now) then
    holder, ends = ARGV[1], now + lasts
    token = string.format('%.0f', math.max(token + 1, mine + 1, time[1] * 1000000 + time[2]))
    redis.call('HSET', lease, 'holder', holder, 'token', token, 'until', string.format('%.0f', ends))
    is_mine = true
  elseif verb == 'keep' and is_mine and lasts > 0 then
    ends = now + lasts
    redis.call('HSET', lease, 'until', string.format('%.0f', ends))
  elseif verb == 'drop' and is_mine then
    holder, is_mine = '', false
    redis.call('HSET', lease, 'holder', '')
  end
  answer[#answer + 1] = {ends > now and holder or '', token, is_mine and 1 or 0}
end
local me = 'c:' .. ARGV[1]
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], me, string.format('%.0f', now + ARGV[2]))
else
  redis.call('HDEL', KEYS[1], me)
end
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 2) == 'c:' then
    if tonumber(fields[i + 1]) > now then
      table.insert(answer[1], string.sub(fields[i], 3))
    else
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
end
return answer
"""

# KEYS: a lease, its stream. ARGV: me, my token, the milliseconds that the lease is to last from now on (0: as it is),
# and a command. Answers with 0 when the lease is not mine; else with 1, and the command's answer.
FENCED = """
local lease = redis.call('HMGET', KEYS[1], 'holder', 'token')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then return {0} end
if tonumber(ARGV[3]) > 0 then
  local time = redis.call('TIME')
  local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', ends))
end
if #ARGV == 3 then return {1} end
return {1, redis.call(unpack(ARGV, 4))}
"""

# KEYS: a lease and its stream, of each shard. ARGV: me, the group, how many entries of each, my token of each. Answers
# for each: 0 (not mine), or 1, new entries, and the id that the group has read to.
READ = """
local answer = {}
for i = 1, #KEYS, 2 do
  local lease = redis.call('HMGET', KEYS[i], 'holder', 'token')
  if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[3 + (i + 1) / 2] then
    answer[#answer + 1] = {0, {}, ''}
  else
    local stream, group = KEYS[i + 1], ARGV[2]
    local page = redis.call('XREADGROUP', 'GROUP', group, ARGV[1], 'COUNT', ARGV[3], 'STREAMS', stream, '>')
    local entries, last = page and page[1][2] or {}, '0-0'
    if #entries > 0 then
      last = entries[#entries][1]
    else
      for _, pairs in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local found = {}
        for j = 1, #pairs, 2 do found[pairs[j]] = pairs[j + 1] end
        if found.name == group then last = found['last-delivered-id'] end
      end
    end
    answer[#answer + 1] = {1, entries, last}
  end
end
return answer
"""

# KEYS: a stream. ARGV: the group, from which id on, how many. What is pending, of whichever consumer: id, how often it
# was delivered, and the aggregate; without that when the entry was trimmed.
PENDING = """
local answer = {}
for i, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])) do
  answer[i] = {pending[1], pending[4]}
  local entry = redis.call('XRANGE', KEYS[1], pending[1], pending[1])[1]
  if entry then
    local found = {aggregate_type = '', aggregate_id = ''}
    for j = 1, #entry[2], 2 do found[entry[2][j]] = entry[2][j + 1] end
    answer[i] = {pending[1], pending[4], found.aggregate_type, found.aggregate_id}
  end
end
return answer
"""
_SHA = {script: sha1(script.encode(), usedforsecurity=False).hexdigest() for script in (LEASES, FENCED, READ, PENDING)}


def run(script: str, keys: Sequence[str], *arguments: object) -> Steps:
    """Run one of the scripts above, by its name where the server knows it."""
    rest = (len(keys), *keys, *arguments)
    try:
        return (yield Call("evalsha", (_SHA[script], *rest)))
    except NoScriptError:
        return (yield Call("eval", (script, *rest)))


def lease_of(key: str, group: str) -> str:
    """The key of a lease: in a Cluster it has to lie where the stream lies."""
    before, _, after = key.partition("{")
    tagged = after.partition("}")[0] != "" and "}" in after
    return f"{key}:{group}:lease" if tagged else f"{{{before}}}:{group}:lease"


class LeasedShard(Shard):
    """A shard, and what is known of its lease. Only the steps of its reader write it."""

    token = 0  # 0: not ours
    highest = 0  # the highest token we had
    sure_until = 0.0  # on the reader's clock: so long another consumer cannot have begun anything of it
    leaving = False  # ours, to be given up as soon as nothing of it is in hand
    pending_from: str | None = "-"  # from where on to look for what is pending; None: all of that is known
    looks = 0  # how often that search has begun anew
    last = "0-0"  # the group has read to here
    free = False  # nobody's, when we looked last
    uncounted: Sequence[str] = ()  # entries that were read and not begun, to be given back when it is given up

    @property
    def lease(self) -> str:
        """Its key in Redis."""
        return lease_of(self.key, self._group.group)

    def taken(self, token: int) -> None:
        """Note that it is ours now."""
        self.token = self.highest = token
        self.leaving = False
        self.uncounted = ()
        self.pending_from = "-"

    def lost(self) -> None:
        """Note that it is ours no more."""
        self.token = 0
        self.leaving = False


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis says of a lease. `holder`: "" when it is free. `is_mine`: also when it is over and nobody took it."""

    holder: str
    token: int
    is_mine: bool


def ask(group: Group, verbs: Mapping[LeasedShard, Verb], lasts: Mapping[str, int], remembered_ms: int) -> Steps:
    """Look at leases, take, keep or give them up; (names of all consumers, what was found of each by its key).

    `lasts`: for how many milliseconds each is taken or kept; claim_idle_ms, where it names none.
    """
    arguments: list[object] = [group.consumer, remembered_ms]
    for shard, verb in verbs.items():
        token = shard.highest if verb == "take" else shard.token
        arguments += [verb, token, lasts.get(shard.key, group.claim_idle_ms)]
    names, *found = yield from run(LEASES, [shard.lease for shard in verbs], *arguments)
    return {text(name) for name in names}, dict(zip((shard.key for shard in verbs), map(_found, found), strict=True))


def _found(answer: Sequence[Any]) -> Found:
    return Found(text(answer[0]), int(answer[1]), bool(answer[2]))


def pairs_of(flat: Sequence[Any]) -> dict[Any, Any]:
    """The fields of an entry, as a script answers with them."""
    each: Iterator[Any] = iter(flat)
    return dict(zip(each, each, strict=True))
