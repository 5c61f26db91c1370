-- ARGV: 4 name, 5 incarnation, 6 lease, 7 ttl, ms, 8 a term to begin, 9 nodes at most, 10 superseded lives at most, 11 whether all
-- are to hear of it.
local name, life = ARGV[4], ARGV[4] .. '/' .. ARGV[5]
if redis.call('ZSCORE', KEYS[7], life) then
  tell()
  return {'superseded'}
end
local holder = redis.call('HGET', KEYS[6], name)
if not holder and redis.call('HLEN', KEYS[6]) >= tonumber(ARGV[9]) then
  tell()
  return {'full'}
end
-- Whether or not its lease had ended.
local last = holder or redis.call('HGET', KEYS[9], name)
if last and last ~= ARGV[5] then
  local before = name .. '/' .. last
  finish(before)
  local newest = redis.call('ZRANGE', KEYS[7], -1, -1, 'WITHSCORES')
  redis.call('ZADD', KEYS[7], fixed((tonumber(newest[2]) or 0) + 1), before)
  redis.call('ZREMRANGEBYRANK', KEYS[7], 0, -1 - tonumber(ARGV[10]))
end
redis.call('HDEL', KEYS[9], name)
redis.call('ZREM', KEYS[10], name)
local beyond = redis.call('ZCARD', KEYS[10]) - tonumber(ARGV[9])
if beyond > 0 then
  for _, oldest in ipairs(redis.call('ZRANGE', KEYS[10], 0, beyond - 1)) do
    redis.call('HDEL', KEYS[9], oldest)
    redis.call('ZREM', KEYS[10], oldest)
  end
end
local term = redis.call('HGET', KEYS[4], life)
if not term then
  term = ARGV[8]
  redis.call('HSET', KEYS[4], life, term)
end
redis.call('ZADD', KEYS[3], fixed(passed + tonumber(ARGV[7])), life)
redis.call('HSET', KEYS[6], name, ARGV[5])
redis.call('HSET', KEYS[5], name, ARGV[6])
changed = changed or holder ~= ARGV[5] or ARGV[11] == '1'
tell()
-- Where it held no lease nothing hangs on it, though it may have been believed since.
return {'ok', term, holder == ARGV[5] and 0 or 1}
