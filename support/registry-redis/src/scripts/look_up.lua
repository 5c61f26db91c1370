-- All values of all hashes of a part that are named. KEYS: 1 life, then the hashes.
local found = {}
for place = 2, #KEYS do
  for _, value in ipairs(redis.call('HVALS', KEYS[place])) do
    found[#found + 1] = value
  end
end
return {'ok', found}
