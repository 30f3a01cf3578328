"""What Redis does in one step each: Lua, run by its hash.

Keys, all under the hash tag ``{namespace}`` so that they share one slot of a cluster:

    {ns}:account:<account>   hash: "r" what is reserved, <slot> what was settled in it
    {ns}:holds:<owner>       hash: <number> of an open hold → its accounts and amounts
    {ns}:hold:<id>           a hold that is no longer open: "swept" (given back, yet to be settled)
                             or "gone" (settled before it was reserved)
    {ns}:owners              sorted set: owner → when its lease ends, in the server's milliseconds
    {ns}:document:<name>     a document

A script that fails half-way leaves what it wrote. So each reads what it needs first, and where
it writes what it has not read, a foreign value under a key of ours costs that value alone.
Numbers come as text and go into HINCRBY as they came: exact. Sums are doubles: exact below 2**53.
"""

from __future__ import annotations

import hashlib

__all__ = ["APPLY", "END", "RENEW", "RESERVE", "STANDINGS", "SWAP", "Script"]

GRACE_MS = 86_400_000
"""Accounts outlive their windows by so long, in case a clock is set back."""

CAP_MS = 10 * 365 * 86_400_000
"""Nothing is kept longer than this after its last use."""

GONE_MS = 3_600_000
"""How long a hold that was given back before it came is remembered."""


class Script:
    """A script and the name that Redis knows it by."""

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_LIFE = f"""
local GRACE, CAP, GONE = {GRACE_MS}, {CAP_MS}, {GONE_MS}

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function outlive(key, ttl)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, string.format('%.0f', ttl)) end
end

local function life(expires_at_ms, now)
  return math.min(math.max(expires_at_ms - now, 0) + GRACE, CAP)
end
"""

_STANDING = """
local function standing(key, oldest)
  local found = redis.pcall('HGETALL', key)
  if found.err then return nil end
  local settled, reserved, first = 0, 0, false
  for i = 1, #found, 2 do
    local amount, slot = tonumber(found[i + 1]), tonumber(found[i])
    if not amount or amount ~= math.floor(amount) then return nil end
    if found[i] == 'r' then
      reserved = amount
    elseif not slot then
      return nil
    elseif slot >= oldest and amount ~= 0 then
      settled = settled + amount
      if not first or slot < first then first = slot end
    end
  end
  return settled, reserved, first
end
"""

_SWEEP = """
local function take(key, amount)
  local reserved = redis.pcall('HGET', key, 'r')
  if type(reserved) ~= 'string' then return end
  local left = (tonumber(reserved) or 0) - tonumber(amount)
  if left > 0 then
    redis.call('HINCRBY', key, 'r', '-' .. amount)
  else
    redis.call('HDEL', key, 'r')
  end
end

local function sweep(base, now, most)
  local dead = redis.call('ZRANGEBYSCORE', base .. ':owners', '-inf', now, 'LIMIT', 0, most)
  for _, owner in ipairs(dead) do
    local key = base .. ':holds:' .. owner
    local holds = redis.call('HGETALL', key)
    for i = 1, #holds, 2 do
      local lines = cmsgpack.unpack(holds[i + 1])
      for j = 1, #lines, 2 do
        if lines[j + 1] ~= '0' then take(base .. ':account:' .. lines[j], lines[j + 1]) end
      end
      redis.call('SET', base .. ':hold:' .. owner .. '-' .. holds[i], 'swept', 'PX', GRACE)
    end
    redis.call('DEL', key)
    redis.call('ZREM', base .. ':owners', owner)
  end
  return #dead
end
"""

RESERVE = Script(
    _LIFE,
    _STANDING,
    _SWEEP,
    """
-- KEYS: owners, holds of the owner, mark of the hold, account of each line
-- ARGV: base, owner, number, lease in ms;
-- then of each line account, amount, limit or '', oldest, expiry in ms
local base, now = ARGV[1], now_ms()
local lines, reply = #KEYS - 3, nil

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
  return ok
end

local ok = look()
if ok == 0 and sweep(base, now, 100) > 0 then ok = look() end
if ok < 0 then return {ok} end
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return reply end
if ok == 0 or redis.call('EXISTS', KEYS[3]) == 1 then
  reply[1] = 0
  return reply
end
local record, longest = {}, 0
for i = 1, lines do
  record[2 * i - 1], record[2 * i] = ARGV[5 * i], ARGV[5 * i + 1]
  longest = math.max(longest, life(tonumber(ARGV[5 * i + 4]), now))
end
redis.call('HSET', KEYS[2], ARGV[3], cmsgpack.pack(record))
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[2])
for i = 1, lines do
  redis.call('HINCRBY', KEYS[3 + i], 'r', ARGV[5 * i + 1])
  outlive(KEYS[3 + i], life(tonumber(ARGV[5 * i + 4]), now))
end
outlive(KEYS[1], longest)
outlive(KEYS[2], longest)
return reply
""",
)

APPLY = Script(
    _LIFE,
    _SWEEP,
    """
-- KEYS: owners (names the slot); ARGV: base, most slots; then of each settlement owner, number, lines,
-- and of each line account, reserved, used, slot, oldest, expiry in ms
local base, most, now, damaged, at = ARGV[1], tonumber(ARGV[2]), now_ms(), 0, 3

local function prune(key, oldest)
  if redis.call('HLEN', key) <= most then return end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local slot = tonumber(field)
    if slot and slot < oldest then redis.call('HDEL', key, field) end
  end
end

while at <= #ARGV do
  local holds, mark = base .. ':holds:' .. ARGV[at], base .. ':hold:' .. ARGV[at] .. '-' .. ARGV[at + 1]
  local lines = tonumber(ARGV[at + 2])
  local open = redis.call('HDEL', holds, ARGV[at + 1]) == 1
  local late = not open and redis.call('GET', mark) == 'swept'
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
return damaged
""",
)

RENEW = Script(
    _LIFE,
    _SWEEP,
    """
-- KEYS: owners, holds of the owner; ARGV: base, owner, lease in ms
local now = now_ms()
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
  outlive(KEYS[1], redis.call('PTTL', KEYS[2]))
end
return sweep(ARGV[1], now, 100)
""",
)

END = Script(
    """
-- KEYS: owners, holds of the owner; ARGV: owner
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""
)

STANDINGS = Script(
    _STANDING,
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
