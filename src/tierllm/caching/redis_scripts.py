"""What the Redis layer does in one step each: Lua, run by its hash.

Keys, all under the hash tag ``{namespace}`` so that they share one slot of a cluster:

    {ns}:cache:entry:<slot>    what is kept, with its time to live
    {ns}:cache:expiry          sorted set: slot → when its time is over, in the server's microseconds
    {ns}:cache:group:<group>   sorted set: slot → since when it waits for its turn to go, in the server's
                               microseconds; MAIN more in the main part
    {ns}:cache:groups          sorted set: group → its bytes, less those that it is guaranteed
    {ns}:cache:about           hash: s<slot> → its bytes and its group; t → all bytes;
                               l<group> → what it is guaranteed
    {ns}:cache:gone            string: marks of those that went from probation, two bytes each

and those of the board and of claims: see ``redis_board_scripts``.

Who goes is as in S3-FIFO (Yang et al., *FIFO queues are all you need for cache eviction*, SOSP 2023;
``admission`` has it for memory): a new entry is on probation, and while one in so many of its group's
entries is, those on probation go first, so that keys that come once only push out each other. One that was
asked for when its turn comes, or is set again while it is here or soon after it went, gets into the main
part, where being asked for buys one more round.

The index lives as long as the longest of the entries. Where a part of it was lost (the server made
room, somebody deleted keys or put values of his own there), everything is forgotten, some with each set.
"""

from __future__ import annotations

from ..stores.redis_scripts import Script

__all__ = ["CLEAR", "CLEARED_AT_ONCE", "DELETE", "KEEP", "SLOTS", "STATS"]

CLEARED_AT_ONCE = 500
"""Entries that one step clears: it keeps everybody waiting meanwhile."""

SWEPT_AT_ONCE = 50
"""Entries whose time is over that one set takes out of the index."""

DROPPED = 3
"""So many that the server may have dropped one set looks after."""

MOST_EVICTED = 1000
"""What needs the room of more entries than this is not kept."""

MOST_SPARED = 20
"""So many entries are spared in one set because they were asked for."""

PROBATION = 10
"""One in so many entries of a group is on probation, if not more are."""

LEAST_MARKS = 64

MOST_MARKS = 2**20
"""Of those that went: two bytes each, in one string."""

INDEX = f"""
local SWEPT, CLEARED, MOST, SPARED = {SWEPT_AT_ONCE}, {CLEARED_AT_ONCE}, {MOST_EVICTED}, {MOST_SPARED}
local DROPPED = {DROPPED}
local MAIN = 2 ^ 52  -- above all times, and exact in a double with any of them
local base = ARGV[1]
local ABOUT, EXPIRY, GROUPS = base .. ':about', base .. ':expiry', base .. ':groups'
local GONE = base .. ':gone'

local function text(number)
  return string.format('%.0f', number)
end

-- How much is under a key of the index: nothing if somebody put another kind of value there
local function size_of(command, key)
  local found = redis.pcall(command, key)
  if type(found) == 'number' then return found end
  redis.call('UNLINK', key)
  return 0
end

local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- Take one entry out of everything. How many bytes that were.
local function drop(slot)
  redis.call('UNLINK', base .. ':entry:' .. slot)
  redis.call('ZREM', EXPIRY, slot)
  local about = redis.call('HGET', ABOUT, 's' .. slot)
  if not about then return 0 end
  redis.call('HDEL', ABOUT, 's' .. slot)
  local size, group = string.match(about, '^(%d+) (.*)$')
  if not size then return 0 end
  redis.call('HINCRBY', ABOUT, 't', '-' .. size)
  local queue = base .. ':group:' .. group
  redis.pcall('ZREM', queue, slot)
  if redis.call('EXISTS', queue) == 1 then
    redis.call('ZINCRBY', GROUPS, '-' .. size, group)
  else
    redis.call('ZREM', GROUPS, group)
    redis.call('HDEL', ABOUT, 'l' .. group)
  end
  return tonumber(size)
end

-- Whether no part of it was lost. There is a line for each entry, one of all, some of groups.
local function is_whole()
  local lines, groups = math.max(0, size_of('HLEN', ABOUT) - 1), size_of('ZCARD', GROUPS)
  local entries = size_of('ZCARD', EXPIRY)
  return entries <= lines and lines <= entries + groups and (entries == 0) == (groups == 0)
end

-- Forget so many entries as the index still knows of. How many went, and whether none is left.
local function forget(most)
  local slots, cursor = {{}}, '0'
  if size_of('ZCARD', EXPIRY) > 0 then slots = redis.call('ZRANGE', EXPIRY, 0, most - 1) end
  if #slots == 0 and size_of('HLEN', ABOUT) > 0 then
    repeat
      local found = redis.call('HSCAN', ABOUT, cursor, 'COUNT', most)
      cursor = found[1]
      for i = 1, #found[2], 2 do
        if string.sub(found[2][i], 1, 1) == 's' then table.insert(slots, string.sub(found[2][i], 2)) end
      end
    until #slots > 0 or cursor == '0'
  end
  for _, slot in ipairs(slots) do drop(slot) end
  redis.call('UNLINK', GROUPS)  -- so that it is not whole until none is left
  local done = cursor == '0' and redis.call('EXISTS', EXPIRY) == 0
  if done then redis.call('UNLINK', ABOUT, GONE) end
  return #slots, done
end
"""

TURNS = f"""
local PROBATION, LEAST_MARKS, MOST_MARKS = {PROBATION}, {LEAST_MARKS}, {MOST_MARKS}

-- Where the mark of a slot is among those that went, and the mark. There are one or two places for
-- each entry, and the latest mark takes the place: most are found until as many others went.
local function mark_of(slot)
  local entries, marks = redis.call('ZCARD', EXPIRY), LEAST_MARKS
  while marks < entries and marks < MOST_MARKS do marks = 2 * marks end
  local hash = redis.sha1hex(slot)
  local mark = string.char(tonumber(string.sub(hash, 9, 10), 16), tonumber(string.sub(hash, 11, 12), 16))
  return 2 * (tonumber(string.sub(hash, 1, 8), 16) % marks), mark
end

local function went_lately(slot)
  local at, mark = mark_of(slot)
  return redis.pcall('GETRANGE', GONE, at, at + 1) == mark
end

-- Whose turn it is in a queue, and its score. The one for which room is made, if it is there, is the last
-- of its part and does not count as on probation: ``new`` is 1 then.
local function next_of(queue, new)
  if size_of('ZCARD', queue) == 0 then return end
  local on_probation = redis.call('ZCOUNT', queue, '-inf', '(' .. text(MAIN))
  local entries = redis.call('ZCARD', queue)
  local first = (on_probation - new) * PROBATION > entries or on_probation == entries
  local at = first and 0 or on_probation
  local found = redis.call('ZRANGE', queue, at, at, 'WITHSCORES')
  return found[1], tonumber(found[2])
end
"""

KEEP = Script(
    INDEX,
    TURNS,
    """
-- KEYS: the entry; ARGV: base, slot, data, time to live in ms, group, its bytes, bytes that the group is
-- guaranteed, bound of all bytes
-- → whether it was kept, how many went to make room, of how many the time was over
local slot, life, group = ARGV[2], tonumber(ARGV[4]), ARGV[5]
local size, least, bound = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now, queue = now_us(), base .. ':group:' .. group

-- Changes nothing, but a server without room refuses it; after another write it would refuse nothing.
local refused = redis.pcall('SETRANGE', KEYS[1], 0, '')
local evicted, done = 0, true
if not is_whole() then evicted, done = forget(MOST) end
local proven = drop(slot) > 0 or went_lately(slot)
if not done then return {0, evicted, 0} end
local over = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', text(now), 'LIMIT', 0, SWEPT)
for _, each in ipairs(over) do drop(each) end
-- a server that makes room itself begins with those that end soon, or have waited long
for _, each in ipairs(redis.call('ZRANGE', EXPIRY, 0, DROPPED - 1)) do
  if redis.call('EXISTS', base .. ':entry:' .. each) == 1 then break end
  drop(each)
end
if type(refused) == 'table' and string.find(refused.err, 'OOM', 1, true) then return {0, evicted, #over} end

-- into the index, as the last of its group: behind those that are spared below
size_of('ZCARD', queue)
redis.call('HSET', ABOUT, 's' .. slot, ARGV[6] .. ' ' .. group)
local total = redis.call('HINCRBY', ABOUT, 't', ARGV[6])
redis.call('ZADD', EXPIRY, text(now + 1000 * life), slot)
redis.call('ZADD', queue, text(now + SPARED + 1 + (proven and MAIN or 0)), slot)
local change = size
local before = tonumber(redis.call('HGET', ABOUT, 'l' .. group) or '0') or 0
if before ~= least then
  change = change + before - least
  redis.call('HSET', ABOUT, 'l' .. group, ARGV[7])
end
redis.call('ZINCRBY', GROUPS, text(change), group)
for _, key in ipairs({ABOUT, EXPIRY, GROUPS, queue}) do
  if redis.call('PTTL', key) < life + 1000 then redis.call('PEXPIRE', key, text(life + 60000)) end
end

local spared, marked, lost = 0, false, false
for turn = 1, MOST do
  if total <= bound then break end
  local loser = redis.call('ZREVRANGE', GROUPS, 0, 0)[1]
  local from = base .. ':group:' .. loser
  local victim, since = next_of(from, loser == group and not proven and 1 or 0)
  if not victim then
    -- a queue ends with the last of its entries: perhaps they are not swept yet
    local ended = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', text(now), 'LIMIT', 0, SWEPT)
    for _, each in ipairs(ended) do
      total = total - drop(each)
      table.insert(over, each)
    end
    lost = #ended == 0
    if lost then break end
  elseif victim == slot then
    -- it is all that its group has, and nobody has more; or a part of the index was lost
    local score = tonumber(redis.call('ZSCORE', GROUPS, loser))
    lost = score ~= size - least or redis.call('ZCARD', GROUPS) == 1
    break
  else
    local on_probation = since < MAIN
    if not on_probation then since = since - MAIN end
    local idle = spared < SPARED and redis.pcall('OBJECT', 'IDLETIME', base .. ':entry:' .. victim)
    -- both clocks of the server tell whole seconds
    if type(idle) == 'number' and now - since > (idle + 1.5) * 1000000 then
      spared = spared + 1
      redis.call('ZADD', from, text(MAIN + now + spared), victim)
    else
      redis.call('ZREM', from, victim)
      if on_probation then
        local at, mark = mark_of(victim)
        redis.pcall('SETRANGE', GONE, at, mark)
        marked = true
      end
      total = total - drop(victim)
      evicted = evicted + 1
    end
  end
end
if marked and redis.call('PTTL', GONE) < life + 1000 then redis.call('PEXPIRE', GONE, text(life + 60000)) end
if total > bound then
  drop(slot)
  if lost then evicted = evicted + forget(MOST) end
  return {0, evicted, #over}
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return {1, evicted, #over}
""",
)

DELETE = Script(
    INDEX,
    """
-- ARGV: base, slot
is_whole()
return {drop(ARGV[2])}
""",
)

CLEAR = Script(
    INDEX,
    """
-- ARGV: base; then the group, or nothing for all → CLEARED where more may be left, or fewer
is_whole()
if not ARGV[2] then
  local _, done = forget(CLEARED)
  return {done and 0 or CLEARED}
end
local from = base .. ':group:' .. ARGV[2]
local slots = size_of('ZCARD', from) > 0 and redis.call('ZRANGE', from, 0, CLEARED - 1) or {}
for _, slot in ipairs(slots) do
  drop(slot)
  redis.call('ZREM', from, slot)
end
return {#slots}
""",
)

STATS = Script(
    """
-- ARGV: base → entries, bytes
local total = tonumber(redis.call('HGET', ARGV[1] .. ':about', 't') or '0') or 0
return {redis.call('ZCARD', ARGV[1] .. ':expiry'), total}
"""
)

SLOTS = Script(
    """
-- ARGV: base, where to go on → where to go on then, and slots, some perhaps twice
local found = redis.call('ZSCAN', ARGV[1] .. ':expiry', ARGV[2], 'COUNT', 100)
local reply = {found[1]}
for i = 1, #found[2], 2 do table.insert(reply, found[2][i]) end
return reply
"""
)
