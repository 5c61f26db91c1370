-- An ended term has been swept after: once more later, for a call that was on its way, then it is forgotten.
-- ARGV: 4 what was claimed, 5 when to do it again, ms.
tell()
redis.call('ZREM', KEYS[8], ARGV[4])
if ARGV[4]:sub(-1) ~= '+' then
  redis.call('ZADD', KEYS[8], fixed(passed + tonumber(ARGV[5])), ARGV[4] .. ' +')
end
return {'ok'}
