-- KEYS: 1 life, 2 the room.
return {'ok', redis.call('HGETALL', KEYS[2])}
