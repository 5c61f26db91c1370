-- Removes what a term left in these entries. KEYS: 1 life, 2 index, then the entries. ARGV: 1 life, 2 the gateway's life, 3 the term, then
-- the entries' names in the index.
local swept = 0
for place = 3, #KEYS do
  local name, stays = ARGV[place + 1], false
  local all = redis.call('HGETALL', KEYS[place])
  for nth = 1, #all, 2 do
    local field, value = all[nth], all[nth + 1]
    local theirs
    if name:sub(1, 2) == 'r:' then
      theirs = field == ARGV[2]
    else
      local handle = value:match('^%x+ %d+ (%S+) ')
      theirs = handle:sub(1, #ARGV[2] + 1) == ARGV[2] .. '/'
    end
    if theirs then
      if value:sub(1, 16) == ARGV[3] then
        redis.call('HDEL', KEYS[place], field)
        swept = swept + 1
      else
        stays = true
      end
    end
  end
  if not stays then
    redis.call('SREM', KEYS[2], name)
  end
end
return {'ok', swept}
