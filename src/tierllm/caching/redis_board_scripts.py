"""The board and the claims of the Redis layer: Lua, one step each.

Keys, under the same hash tag as the entries:

    {ns}:cache:board          sorted set: name → number of its notice
    {ns}:cache:contents       hash: name → "=" and the content it names, or "" if none
    {ns}:cache:number         what the board says of itself: "<number> <floor> <names> <origin>"
    {ns}:cache:claim:<slot>   who makes what is missing
    {ns}:cache:news           channel: what the board says of itself, whenever it was changed

``origin`` is another one after the data was lost, or may have been: it names the run of the server that
wrote last, and when the board began. So whoever knows notices sees when to put them back,
also where others have posted since. The board is small, and has no time to live: a server that makes room
by one of its ``volatile`` policies leaves it alone. Numbers are milliseconds since 1970 or a little more:
exact in a double.
"""

from __future__ import annotations

from ..stores.redis_scripts import Script
from .redis_known import LONGEST_SAYING, MOST_NUMBER

__all__ = ["BOARD", "CLAIM", "POST", "PUT_BACK", "RELEASE"]

STATE = f"""
local LONGEST_SAYING, MOST_NUMBER = {LONGEST_SAYING}, {MOST_NUMBER}
local base = ARGV[1]
local BOARD, CONTENTS, NUMBER = base .. ':board', base .. ':contents', base .. ':number'

local function text(number)
  return string.format('%.0f', number)
end

-- → number, floor, origin (nil: the board is new, or lost a part), what was found of it
local function state()
  local found = redis.pcall('GET', NUMBER)
  if type(found) ~= 'string' or #found > LONGEST_SAYING then found = '' end
  local number, floor, names, origin = string.match(found, '^(%d+) (%d+) (%d+) (%S+)$')
  number, floor, names = tonumber(number) or 0, tonumber(floor) or 0, tonumber(names) or 0
  if math.max(number, floor) > MOST_NUMBER then number, floor, names = 0, 0, -1 end  -- not said by us
  if redis.call('ZCARD', BOARD) ~= names or redis.call('HLEN', CONTENTS) ~= names then
    -- nobody knows which notices are gone: nothing made before the last one is valid
    redis.call('ZREMRANGEBYSCORE', BOARD, '(' .. text(MOST_NUMBER), '+inf')
    local there = redis.call('ZRANGE', BOARD, 0, -1, 'WITHSCORES')
    number = math.max(number, tonumber(there[#there]) or 0)
    floor, origin = number, nil
    redis.call('DEL', CONTENTS)
    for i = 1, #there, 2 do redis.call('HSET', CONTENTS, there[i], '') end
  end
  return number, floor, origin, found
end

-- The older half goes when there are too many. The floor then.
local function pruned(floor, most)
  local names = redis.call('ZCARD', BOARD)
  if names <= most then return floor end
  local over = names - math.floor(most / 2)
  local gone = redis.call('ZRANGE', BOARD, 0, over - 1)
  for i = 1, #gone, 500 do redis.call('HDEL', CONTENTS, unpack(gone, i, math.min(i + 499, #gone))) end
  floor = math.max(floor, tonumber(redis.call('ZSCORE', BOARD, gone[#gone])))
  redis.call('ZREMRANGEBYRANK', BOARD, 0, over - 1)
  return floor
end

local function of_this_run(origin, run)
  return origin and string.match(origin, '^(%w+)%.') == run
end

local function began(origin)
  return origin and string.match(origin, '%.(.*)$')
end

local function this_run()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
end

local function kept(number, floor, origin)
  local run = this_run()
  if not of_this_run(origin, run) then
    local t = redis.call('TIME')
    origin = run .. '.' .. (began(origin) or text(t[1] * 1000000 + t[2]))
  end
  local names = text(redis.call('ZCARD', BOARD))
  local value = text(number) .. ' ' .. text(floor) .. ' ' .. names .. ' ' .. origin
  redis.call('SET', NUMBER, value)
  return value
end

local function put(name, number, content)
  redis.call('ZADD', BOARD, text(number), name)
  redis.call('HSET', CONTENTS, name, content)
end
"""

POST = Script(
    STATE,
    """
-- KEYS: number; ARGV: base, most names, least number; then of each notice name and content
-- → what the board said before, and says now
local number, floor, origin, found = state()
redis.call('DEL', NUMBER)  -- a server without room refuses a first write, but none after it
local t = redis.call('TIME')
number = math.max(number + 1, tonumber(ARGV[3]), t[1] * 1000 + math.floor(t[2] / 1000))
for i = 4, #ARGV, 2 do put(ARGV[i], number, ARGV[i + 1]) end
local value = kept(number, pruned(floor, tonumber(ARGV[2])), origin)
redis.pcall('PUBLISH', base .. ':news', value)
return {found, value}
""",
)

BOARD = Script(
    STATE,
    """
-- KEYS: number; ARGV: base, since → what the board says of itself; then of each notice above `since`
-- name, number and content
local number, floor, origin, found = state()
if not origin and (found ~= '' or number > 0) then found = kept(number, floor, origin) end
local reply = {found}
local names = redis.call('ZRANGEBYSCORE', BOARD, '(' .. ARGV[2], '+inf', 'WITHSCORES')
for i = 1, #names, 2 do
  table.insert(reply, names[i])
  table.insert(reply, names[i + 1])
  table.insert(reply, redis.call('HGET', CONTENTS, names[i]) or '')
end
return reply
""",
)

PUT_BACK = Script(
    STATE,
    """
-- KEYS: number; ARGV: base, most names, of whoever puts back: the last number it knows, the origin it
-- knows, its floor; number that is reached with these; whether it is the first step; whether it knows
-- all notices; then of each notice name, number and content, the least numbers first
-- → what the board says of itself; whether anything had been lost
local number, floor, origin, found = state()
local known, least, reached = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local there = origin and redis.call('ZCOUNT', BOARD, ARGV[3], ARGV[3]) > 0
if known > 0 and origin then
  -- Redis keeps them in order: of the same board, where the last one is all are
  local kept_all = there and began(origin) == began(ARGV[4])
  if floor >= known or kept_all or (number >= known and origin == ARGV[4]) then return {found, 0} end
end
-- they are put back in order, too: who has not read all leaves the rest to who has, if it was here
if ARGV[8] == '0' and not there then least, reached = known, known end
redis.call('DEL', NUMBER)
local fresh, after = math.max(number, known) + 1, math.max(number, reached)
if ARGV[7] == '1' and number > 0 and number < known and of_this_run(origin, this_run()) then
  -- posted since by who knew no better, below numbers that entries were made with
  for _, name in ipairs(redis.call('ZRANGE', BOARD, 0, -1)) do
    redis.call('ZADD', BOARD, text(fresh), name)
  end
  number, after = fresh, fresh
end
-- others may have read the board up to its number: what they are to see gets a higher one
if least > floor then
  floor = least
  if number > 0 then after = fresh end
end
for i = 9, #ARGV, 3 do
  local its = tonumber(ARGV[i + 1])
  local score = tonumber(redis.call('ZSCORE', BOARD, ARGV[i]) or nil)
  if its > floor and (not score or score < its) then
    if its <= number then its, after = fresh, fresh end
    put(ARGV[i], its, ARGV[i + 2])
  end
end
local value = kept(after, pruned(floor, tonumber(ARGV[2])), origin)
if reached == known then redis.pcall('PUBLISH', base .. ':news', value) end  -- all steps are done
return {value, 1}
""",
)

CLAIM = Script(
    """
-- KEYS: the claim; ARGV: owner, lease in ms → whether he has it
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'string' and found ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])  -- a server without room refuses a first write, but none after it
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)

RELEASE = Script(
    """
-- KEYS: the claim; ARGV: owner
if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""
)
