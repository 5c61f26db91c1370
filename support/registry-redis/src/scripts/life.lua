-- Makes sure that a place has a life, and a new one when its server is another run: then writes may be lost.
-- KEYS: life, run. ARGV: a life to begin, the channel of changes.
local info = redis.pcall('INFO', 'server')
-- Who may not ask goes without.
local run = type(info) == 'string' and info:match('run_id:(%x+)') or ''
local life = redis.call('GET', KEYS[1])
if not life or redis.call('GET', KEYS[2]) ~= run then
  life = ARGV[1]
  redis.call('SET', KEYS[1], life)
  redis.call('SET', KEYS[2], run)
  redis.call('PUBLISH', ARGV[2], 'life')
end
return {'ok', life}
