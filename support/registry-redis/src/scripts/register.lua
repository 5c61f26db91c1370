-- Registers sessions of one part, all or none.
-- KEYS: 1 life, then for each session its user, its life's index and who lost a place to its device.
-- ARGV: 1 life, 2 sessions a user may have, 3 how long who lost a place is told again, ms, 4 how many at most, 5 whether the ended terms
-- are given, 6 how many, then those; then for each session: device, term, epoch, handle, record, the user's name in the index.
local max, retold_for, retold_max, checked, ended = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', {}
local base = 6 + tonumber(ARGV[6])
for place = 7, base do
  ended[ARGV[place]] = true
end
local count = (#KEYS - 1) / 3
local function at(nth)
  local arg = base + (nth - 1) * 6
  return {
    user = KEYS[3 * nth - 1], index = KEYS[3 * nth], lost = KEYS[3 * nth + 1], device = ARGV[arg + 1], term = ARGV[arg + 2], epoch = ARGV[arg + 3],
    handle = ARGV[arg + 4], record = ARGV[arg + 5], name = ARGV[arg + 6],
  }
end
local function read(value)
  local term, epoch, handle, record = value:match('^(%x+) (%d+) (%S+) (.*)$')
  return {term = term, epoch = epoch, handle = handle, record = record}
end

-- What has ended must not stand in anybody's way: where something does, the caller finds out what has ended and comes again.
if not checked then
  local doubtful, seen, new = {}, {}, {}
  for nth = 1, count do
    local session = at(nth)
    local value = redis.call('HGET', session.user, session.device)
    local doubt
    if value then
      local there = read(value)
      doubt = there.handle ~= session.handle and there.epoch >= session.epoch
    else
      new[session.user] = (new[session.user] or 0) + 1
      doubt = redis.call('HLEN', session.user) + new[session.user] > max
    end
    if doubt and not seen[session.user] then
      seen[session.user] = true
      for _, other in ipairs(redis.call('HVALS', session.user)) do
        local there = read(other)
        doubtful[#doubtful + 1] = there.handle:match('^[^/]+/[^/]+')
        doubtful[#doubtful + 1] = there.term
      end
    end
  end
  if #doubtful > 0 then
    return {'check', doubtful}
  end
end

-- Who lost a place to each device before, oldest first. Read before anything is written, as a step that fails half-way is not undone.
local lost = {}
for nth = 1, count do
  local key = KEYS[3 * nth + 1]
  if not lost[key] then
    local all, before = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'), {}
    for place = 1, #all, 2 do
      before[#before + 1] = all[place]
    end
    lost[key] = {values = before, last = tonumber(all[#all] or 0)}
  end
end
local function lose(key, value)
  local before, values = lost[key], {}
  for _, other in ipairs(before.values) do
    if other ~= value then
      values[#values + 1] = other
    end
  end
  values[#values + 1] = value
  if #values > retold_max then
    table.remove(values, 1)
  end
  lost[key] = {values = values, last = before.last + 1}
  redis.call('ZADD', key, before.last + 1, value)
  redis.call('ZREMRANGEBYRANK', key, 0, -1 - retold_max)
  redis.call('PEXPIRE', key, retold_for)
end

if checked then
  for nth = 1, count do
    local user = KEYS[3 * nth - 1]
    local all = redis.call('HGETALL', user)
    for place = 1, #all, 2 do
      if ended[read(all[place + 1]).term] then
        redis.call('HDEL', user, all[place])
      end
    end
  end
end

local outcomes = {}
for nth = 1, count do
  local session, accepted, displaced, without = at(nth), 1, {}, nil
  local value = redis.call('HGET', session.user, session.device)
  local epoch = session.epoch
  if value then
    local there = read(value)
    if there.handle == session.handle then
      if there.epoch > epoch then
        epoch = there.epoch
      end
    elseif there.epoch >= epoch then
      accepted = 0
    else
      displaced[1] = value
    end
  elseif redis.call('HLEN', session.user) >= max then
    local all, oldest, oldest_device, oldest_epoch = redis.call('HGETALL', session.user)
    for place = 1, #all, 2 do
      local there = read(all[place + 1])
      if not oldest or there.epoch < oldest_epoch or (there.epoch == oldest_epoch and all[place] < oldest_device) then
        oldest, oldest_device, oldest_epoch = all[place + 1], all[place], there.epoch
      end
    end
    without = oldest_device
    displaced[1] = oldest
  end
  if accepted == 1 then
    -- Whoever displaced those of before may not have heard of it. Who has a place again did not lose it.
    local before = lost[session.lost].values
    if displaced[1] then
      lose(session.lost, displaced[1])
    end
    if without then
      redis.call('HDEL', session.user, without)
    end
    local front = session.term .. ' ' .. epoch .. ' ' .. session.handle .. ' '
    redis.call('HSET', session.user, session.device, front .. session.record)
    redis.call('SADD', session.index, session.name)
    if before[1] then
      local has_a_place = {}
      for _, there in ipairs(redis.call('HVALS', session.user)) do
        has_a_place[read(there).handle] = true
      end
      for _, value in ipairs(before) do
        if not has_a_place[read(value).handle] then
          displaced[#displaced + 1] = value
        end
      end
    end
  end
  outcomes[nth] = {accepted, displaced}
end
return {'ok', outcomes}
