-- ARGV: 4 the life.
if redis.call('ZSCORE', KEYS[3], ARGV[4]) then
  finish(ARGV[4])
end
tell()
return {'ok'}
