-- ARGV: 4 the life.
if redis.call('ZSCORE', KEYS[3], ARGV[4]) then
  finish(ARGV[4])
end
-- Where its lease has lapsed, it gives the name back all the same.
local name, incarnation = ARGV[4]:match('^(.*)/(.*)$')
if redis.call('HGET', KEYS[9], name) == incarnation then
  redis.call('HDEL', KEYS[9], name)
  redis.call('ZREM', KEYS[10], name)
end
tell()
return {'ok'}
