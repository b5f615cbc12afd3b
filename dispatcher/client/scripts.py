"""The scripts of a consumer that keeps the order. Each is one step in Redis, whatever other consumers do meanwhile."""

from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any

from redis.exceptions import NoScriptError

from dispatcher.client.steps import Call, Steps

# KEYS: leases. ARGV: me (no other process has this name), the milliseconds that I am remembered for, and for each
# lease: a verb, my token, and the milliseconds that it is to last. Answers with the names of all consumers, then for
# each lease: its holder ("": it is free), its token, whether it is mine. The token is a time, so it rises even if the
# lease was lost with Redis's data.
LEASES = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {{}}
for i, lease in ipairs(KEYS) do
  local verb, mine, lasts = ARGV[3 * i], ARGV[3 * i + 1], tonumber(ARGV[3 * i + 2])
  local found = redis.call('HMGET', lease, 'holder', 'token', 'until', 'lasts')
  local holder, token, ends = found[1] or '', found[2] or '0', tonumber(found[3] or 0)
  local lasted = tonumber(found[4] or 0)
  if lasted > 0 and ends > now + lasted then -- the clock went back: else a dead holder would keep it for so long
    ends = now + lasted
    redis.call('HSET', lease, 'until', string.format('%.0f', ends))
  end
  local is_mine = holder == ARGV[1] and token == mine
  if verb == 'take' and (holder == '' or holder == ARGV[1] or ends <= now) then
    holder, ends = ARGV[1], now + lasts
    token = string.format('%.0f', math.max(token + 1, mine + 1, time[1] * 1000000 + time[2]))
    redis.call('HSET', lease, 'holder', holder, 'token', token, 'until', string.format('%.0f', ends), 'lasts', lasts)
    is_mine = true
  elseif verb == 'keep' and is_mine and lasts > 0 then
    ends = now + lasts
    redis.call('HSET', lease, 'until', string.format('%.0f', ends), 'lasts', lasts)
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
local fields, lasts = redis.call('HGETALL', KEYS[1]), tonumber(ARGV[2])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 2) == 'c:' then
    if lasts > 0 and tonumber(fields[i + 1]) > now + lasts then -- the clock went back
      redis.call('HSET', KEYS[1], fields[i], string.format('%.0f', now + lasts))
    end
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
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', ends), 'lasts', ARGV[3])
end
if #ARGV == 3 then return {1} end
return {1, redis.call(unpack(ARGV, 4))}
"""

# KEYS: a lease and its stream, of each shard. ARGV: me, the group, my name in it, how many entries of each, my token of
# each. Answers for each: 0 (not mine), or 1, new entries, and the id that the group has read to.
READ = """
local answer = {}
for i = 1, #KEYS, 2 do
  local lease = redis.call('HMGET', KEYS[i], 'holder', 'token')
  if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[4 + (i + 1) / 2] then
    answer[#answer + 1] = {0, {}, ''}
  else
    local stream, group = KEYS[i + 1], ARGV[2]
    local page = redis.call('XREADGROUP', 'GROUP', group, ARGV[3], 'COUNT', ARGV[4], 'STREAMS', stream, '>')
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


def pairs_of(flat: Sequence[Any]) -> dict[Any, Any]:
    """The fields of an entry, as a script answers with them."""
    each: Iterator[Any] = iter(flat)
    return dict(zip(each, each, strict=True))
