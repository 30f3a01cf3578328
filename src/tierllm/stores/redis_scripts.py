"""What Redis does in one step each: Lua, run by its hash.

Keys, all under the hash tag ``{namespace}`` so that they share one slot of a cluster:

    {ns}:account:<account>   hash: "r" what is reserved, <slot> what was settled in it
    {ns}:holds:<owner>       hash: <number> of an open hold → its accounts and amounts
    {ns}:hold:<id>           a hold that is no longer open: "swept" (given back, yet to be settled)
                             or "gone" (settled before it was reserved)
    {ns}:owners              sorted set: owner → when its lease ends, in the server's milliseconds
    {ns}:pulse               when the data began, when somebody last reserved, settled or renewed, and
                             the latest silence: when it began, and until when its leases are spared
    {ns}:document:<name>     a document

A script that fails half-way leaves what it wrote. So each reads what it needs first, and where
it writes what it has not read, a foreign value under a key of ours costs that value alone.

A lease may end because its owner could not reach the server, as nobody could. So after a silence
longer than half a lease, those that ended in it are spared for one lease more.
Numbers come as text and go into HINCRBY as they came: exact. Sums are doubles: exact below 2**53.
"""

from __future__ import annotations

import hashlib

from .redis_lua import LIFE, STANDING, SWEEP

__all__ = ["APPLY", "RENEW", "RESERVE", "STANDINGS", "SWAP", "Script"]


class Script:
    """A script and the name that Redis knows it by."""

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


RESERVE = Script(
    LIFE,
    STANDING,
    SWEEP,
    """
-- KEYS: owners, holds of the owner, mark of the hold, account of each line
-- ARGV: base, owner, number, lease in ms;
-- then of each line account, amount, limit or '', oldest, expiry in ms
local base, now = ARGV[1], now_ms()
local lines, reply = #KEYS - 3, nil
local born, ended = pulse(base, now, tonumber(ARGV[4]))

local function look()
  local ok = 1
  reply = {1}
  for i = 1, lines do
    local at = 5 * i
    local settled, reserved, first = standing(KEYS[3 + i], tonumber(ARGV[at + 3]))
    if not settled then return -i end
    local limit = ARGV[at + 2]
    if limit ~= '' and settled + reserved + tonumber(ARGV[at + 1]) > tonumber(limit) then ok = 0 end
    reply[3 * i - 1], reply[3 * i], reply[3 * i + 1] = settled, reserved, first
  end
  reply[3 * lines + 2] = born
  return ok
end

local ok = look()
if ok == 0 and sweep(base, ended) > 0 then ok = look() end
if ok < 0 then return {ok} end
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return reply end
if ok == 0 or redis.call('EXISTS', KEYS[3]) == 1 then
  reply[1] = 0
  return reply
end
local record = {}
for i = 1, lines do
  record[2 * i - 1], record[2 * i] = ARGV[5 * i], ARGV[5 * i + 1]
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], cmsgpack.pack(record))
for i = 1, lines do
  redis.call('HINCRBY', KEYS[3 + i], 'r', ARGV[5 * i + 1])
  outlive(KEYS[3 + i], life(tonumber(ARGV[5 * i + 4]), now))
end
outlive(KEYS[1], CAP)
outlive(KEYS[2], CAP)  -- longer than any account: or what it holds of them could not be given back
return reply
""",
)

APPLY = Script(
    LIFE,
    SWEEP,
    """
-- KEYS: owners (names the slot); ARGV: base, most slots, lease in ms; then of each settlement owner,
-- number, lines, and of each line account, reserved, used, slot, oldest, expiry in ms
local base, most, now, damaged, at = ARGV[1], tonumber(ARGV[2]), now_ms(), 0, 4
local born = pulse(base, now, tonumber(ARGV[3]))

local function prune(key, oldest)
  local too_many = redis.call('HLEN', key) - most
  if too_many <= 0 then return end
  local over = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local slot = tonumber(field)
    if slot and slot < oldest then table.insert(over, slot) end
  end
  table.sort(over)
  for i = 1, math.min(too_many, #over) do redis.call('HDEL', key, string.format('%.0f', over[i])) end
end

while at <= #ARGV do
  local holds, mark = base .. ':holds:' .. ARGV[at], base .. ':hold:' .. ARGV[at] .. '-' .. ARGV[at + 1]
  local lines = tonumber(ARGV[at + 2])
  local open = redis.pcall('HDEL', holds, ARGV[at + 1]) == 1
  local late = not open and redis.pcall('GET', mark) == 'swept'
  if late then
    redis.call('DEL', mark)
  elseif not open then
    redis.call('SET', mark, 'gone', 'PX', GONE)
  end
  at = at + 3
  if open or late then
    for i = at, at + 6 * lines - 1, 6 do
      local key = base .. ':account:' .. ARGV[i]
      if open and ARGV[i + 1] ~= '0' then take(key, ARGV[i + 1]) end
      if ARGV[i + 2] ~= '0' then
        local booked = redis.pcall('HINCRBY', key, ARGV[i + 3], ARGV[i + 2])
        if type(booked) == 'number' then
          outlive(key, life(tonumber(ARGV[i + 5]), now))
          prune(key, tonumber(ARGV[i + 4]))
        else
          damaged = damaged + 1
        end
      end
    end
  end
  at = at + 6 * lines
end
return {damaged, born}
""",
)

RENEW = Script(
    LIFE,
    SWEEP,
    """
-- KEYS: owners, holds of the owner; ARGV: base, owner, lease in ms
local now = now_ms()
local born, ended = pulse(ARGV[1], now, tonumber(ARGV[3]))
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
  outlive(KEYS[1], CAP)
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end
return {sweep(ARGV[1], ended), born}
""",
)

STANDINGS = Script(
    STANDING,
    """
-- KEYS: accounts; ARGV: oldest of each
local reply = {1}
for i = 1, #KEYS do
  local settled, reserved, first = standing(KEYS[i], tonumber(ARGV[i]))
  if not settled then return {-i} end
  reply[3 * i - 1], reply[3 * i], reply[3 * i + 1] = settled, reserved, first
end
return reply
""",
)

SWAP = Script(
    """
-- KEYS: document; ARGV: '1' if one is expected, that one, the new one, its life in ms or ''
local found = redis.call('GET', KEYS[1])
if ARGV[1] == '1' then
  if found ~= ARGV[2] then return 0 end
elseif found then
  return 0
end
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
return 1
"""
)
