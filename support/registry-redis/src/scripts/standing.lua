-- How long terms last, unless they are renewed: ms, 0 for those that have ended. ARGV: from 4 on, life and term in turn.
tell()
local left = {}
for place = 4, #ARGV, 2 do
  local ends = redis.call('ZSCORE', KEYS[3], ARGV[place])
  if ends and redis.call('HGET', KEYS[4], ARGV[place]) == ARGV[place + 1] then
    left[#left + 1] = math.max(1, math.ceil(tonumber(ends) - passed))
  else
    left[#left + 1] = 0
  end
end
return {'ok', left}
