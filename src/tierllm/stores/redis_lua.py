"""Parts of the scripts, in Lua: how long things live, how an account stands, and what the dead give back."""

from __future__ import annotations

__all__ = ["LIFE", "STANDING", "SWEEP"]

GRACE_MS = 86_400_000
"""Accounts outlive their windows by so long, in case a clock is set back."""

CAP_MS = 10 * 365 * 86_400_000
"""Nothing is kept longer than this after its last use."""

GONE_MS = 3_600_000
"""How long a hold that was given back before it came is remembered."""

SWEPT_AT_ONCE = 500
"""Holds of dead owners that one step gives back: it keeps everybody waiting meanwhile."""

LIFE = f"""
local GRACE, CAP, GONE, MOST = {GRACE_MS}, {CAP_MS}, {GONE_MS}, {SWEPT_AT_ONCE}

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

-- When the data began; and until when leases must have ended to be swept.
local function pulse(base, now, lease)
  local key = base .. ':pulse'
  local found = redis.pcall('GET', key)
  local born, last, silent, spared
  if type(found) == 'string' then
    born, last, silent, spared = string.match(found, '^(%d+) (%d+) (%d+) (%d+)$')
  end
  if born then
    born, last, silent, spared = tonumber(born), tonumber(last), tonumber(silent), tonumber(spared)
    if now - last > lease / 2 then
      if last >= spared then silent = last end
      spared = now + lease
    end
  else
    local t = redis.call('TIME')
    born, silent, spared = t[1] * 1000000 + t[2], 0, 0
    if redis.call('EXISTS', base .. ':owners') == 1 then spared = now + lease end
  end
  local kept = string.format('%.0f %.0f %.0f %.0f', born, now, silent, spared)
  redis.call('SET', key, kept, 'PX', string.format('%.0f', CAP))
  if now < spared then return born, silent end
  return born, now
end
"""

STANDING = """
local function standing(key, oldest)
  local found = redis.pcall('HGETALL', key)
  if found.err then return nil end
  local settled, reserved, first = 0, 0, false
  for i = 1, #found, 2 do
    local amount, slot = tonumber(found[i + 1]), tonumber(found[i])
    if not amount or not string.match(found[i + 1], '^-?%d+$') or math.abs(amount) > 2^62 then return nil end
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

SWEEP = """
local function take(key, amount)
  local reserved = redis.pcall('HGET', key, 'r')
  if type(reserved) ~= 'string' then return end
  local left = (tonumber(reserved) or 0) - tonumber(amount)
  if left > 0 then
    redis.pcall('HINCRBY', key, 'r', '-' .. amount)
  else
    redis.call('HDEL', key, 'r')
  end
end

local function give_back(base, record)
  local ok, lines = pcall(cmsgpack.unpack, record)
  if not ok or type(lines) ~= 'table' then return end
  for i = 1, #lines, 2 do
    local account, amount = lines[i], lines[i + 1]
    if type(account) == 'string' and type(amount) == 'string' and string.match(amount, '^%d+$') then
      if amount ~= '0' then take(base .. ':account:' .. account, amount) end
    end
  end
end

-- Give back what owners hold whose lease ended before `ended`; how many holds that were.
local function sweep(base, ended)
  local swept, owners = 0, base .. ':owners'
  local dead = redis.pcall('ZRANGEBYSCORE', owners, '-inf', ended, 'LIMIT', 0, 100)
  if dead.err then return 0 end
  for _, owner in ipairs(dead) do
    local key, cursor, turns = base .. ':holds:' .. owner, '0', 0
    repeat
      local found = redis.pcall('HSCAN', key, cursor, 'COUNT', MOST)
      if found.err then break end
      cursor, turns = found[1], turns + 1
      for i = 1, #found[2], 2 do
        local number = found[2][i]
        if swept < MOST and redis.call('HDEL', key, number) == 1 then
          swept = swept + 1
          give_back(base, found[2][i + 1])
          redis.call('SET', base .. ':hold:' .. owner .. '-' .. number, 'swept', 'PX', GRACE)
        end
      end
    until cursor == '0' or swept >= MOST or turns >= 20
    local left = redis.pcall('HLEN', key)
    if type(left) ~= 'number' or left == 0 then
      redis.call('ZREM', owners, owner)
    else
      return swept
    end
  end
  return swept
end
"""
