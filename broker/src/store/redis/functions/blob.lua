-- put_blob: 1 digest in hexadecimal 2 offset 3 bytes 4 length of the whole, with the last piece;
-- empty before. A blob without a length is not there yet.
define('put_blob', {}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local lengths, key = r.prefix .. 'bs', r.prefix .. 'b:' .. args[1]
  redis.call('HLEN', lengths)
  redis.call('STRLEN', key)
  redis.call('HSETNX', lengths, args[1], '')
  redis.call('SETRANGE', key, args[2], args[3])
  if args[4] ~= '' then redis.call('HSET', lengths, args[1], args[4]) end
  return '\0'
end)
