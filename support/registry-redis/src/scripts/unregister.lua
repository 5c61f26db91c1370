-- Forgets a session, and that its user has any on that life when it was the last one there.
-- KEYS: 1 life, 2 user, 3 index. ARGV: 1 life, 2 device, 3 handle ('' forgets none), 4 the gateway's life, 5 the user's name in the index.
local function is_on_life(value)
  local handle = value:match('^%x+ %d+ (%S+) ')
  return handle:sub(1, #ARGV[4] + 1) == ARGV[4] .. '/', handle
end
local value = redis.call('HGET', KEYS[2], ARGV[2])
if value and ARGV[3] ~= '' then
  local _, handle = is_on_life(value)
  if handle == ARGV[3] then
    redis.call('HDEL', KEYS[2], ARGV[2])
  end
end
for _, other in ipairs(redis.call('HVALS', KEYS[2])) do
  if is_on_life(other) then
    return {'ok'}
  end
end
redis.call('SREM', KEYS[3], ARGV[5])
return {'ok'}
