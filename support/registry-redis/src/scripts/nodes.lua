tell()
return {'ok', redis.call('HVALS', KEYS[5])}
