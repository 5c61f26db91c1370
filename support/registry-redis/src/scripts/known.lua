-- Nothing is done on another life than the caller knows. KEYS[1]: life. ARGV[1]: the life known.
local life = redis.call('GET', KEYS[1])
if life ~= ARGV[1] then
  return {'life'}
end
