-- The term of a life that has something to say; one without a lease is believed for a grace.
-- ARGV: 4 life, 5 a term to begin, 6 the grace, ms.
tell()
if redis.call('ZSCORE', KEYS[7], ARGV[4]) then
  return {'superseded'}
end
local term = redis.call('HGET', KEYS[4], ARGV[4])
if term then
  return {'ok', term, math.ceil(tonumber(redis.call('ZSCORE', KEYS[3], ARGV[4])) - passed)}
end
redis.call('HSET', KEYS[4], ARGV[4], ARGV[5])
redis.call('ZADD', KEYS[3], fixed(passed + tonumber(ARGV[6])), ARGV[4])
return {'ok', ARGV[5], tonumber(ARGV[6])}
