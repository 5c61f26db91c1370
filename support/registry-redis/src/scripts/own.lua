-- Says whose registry this is, for as long as somebody says so. KEYS: owner. ARGV: owner, how long that holds, ms.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return {'other'}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'ok'}
