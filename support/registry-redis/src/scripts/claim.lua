-- Gives one ended term to sweep after, to one asker at a time. ARGV: 4 how long the claim holds, ms.
tell()
local due = redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', fixed(passed), 'LIMIT', 0, 1)
if #due == 0 then
  return {'none'}
end
redis.call('ZADD', KEYS[8], fixed(passed + tonumber(ARGV[4])), due[1])
return {'ok', due[1]}
