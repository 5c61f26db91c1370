-- The registry's time: what has passed without standstills, in ms of this server's clock. A clock that is set, or a replica whose
-- clock is off, moves it by one standstill at most.
-- KEYS: 1 life, 2 clock, 3 ends, 4 terms, 5 leases, 6 holders, 7 superseded, 8 ended, 9 lapsed, 10 when
-- they lapsed.
-- ARGV: 1 life, 2 the longest gap, ms, 3 the channel of changes.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local clock = redis.call('HMGET', KEYS[2], 'last', 'passed')
local last, passed = tonumber(clock[1]) or now, tonumber(clock[2]) or 0
local gap = math.max(0, math.min(now - last, tonumber(ARGV[2])))
passed = passed + gap
-- A reader need not write for every millisecond; what is not written passes with the next call.
if now < last or gap >= 500 or not clock[1] then
  redis.call('HSET', KEYS[2], 'last', string.format('%.0f', now), 'passed', string.format('%.0f', passed))
end

local changed = false
local function fixed(number)
  return string.format('%.0f', number)
end

-- Ends a life: its lease goes, and what hangs on its term is to be swept.
local function finish(life)
  redis.call('ZREM', KEYS[3], life)
  local term = redis.call('HGET', KEYS[4], life)
  if term then
    redis.call('HDEL', KEYS[4], life)
    redis.call('ZADD', KEYS[8], fixed(passed), life .. ' ' .. term)
  end
  local name, incarnation = life:match('^(.*)/(.*)$')
  if redis.call('HGET', KEYS[6], name) == incarnation then
    redis.call('HDEL', KEYS[6], name)
    redis.call('HDEL', KEYS[5], name)
  end
  changed = true
end

local function tell()
  if changed then
    redis.call('PUBLISH', ARGV[3], 'nodes')
  end
end

for _, life in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', fixed(passed))) do
  -- Its process may only stand still: who takes its name later must know of it.
  local name, incarnation = life:match('^(.*)/(.*)$')
  if redis.call('HGET', KEYS[6], name) == incarnation then
    redis.call('HSET', KEYS[9], name, incarnation)
    redis.call('ZADD', KEYS[10], fixed(passed), name)
  end
  finish(life)
end
