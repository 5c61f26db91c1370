-- Sets numbers of members. KEYS: 1 life, 2 index, 3 orders, then the rooms. ARGV: 1 life, 2 who tells it, 3 in which order, 4 how long
-- orders are kept, ms, 5 the gateway's life, 6 its term, then for each room its name in the index and its number.
local newest = redis.call('HGET', KEYS[3], ARGV[2])
if newest and newest > ARGV[3] then
  -- It was overtaken by a later one of the same teller, as after a cut: what that said holds.
  return {'ok'}
end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
for place = 4, #KEYS do
  local arg = 7 + (place - 4) * 2
  if ARGV[arg + 1] == '0' then
    redis.call('HDEL', KEYS[place], ARGV[5])
    redis.call('SREM', KEYS[2], ARGV[arg])
  else
    redis.call('HSET', KEYS[place], ARGV[5], ARGV[6] .. ' ' .. ARGV[arg + 1])
    redis.call('SADD', KEYS[2], ARGV[arg])
  end
end
return {'ok'}
