-- open: 1 fixed (policy u8, client_lease_ms u64, retention_ms u64, digest 32) 2 name 3 header.
-- Answers 0 created, 1 the same content is there, 3 another content is there, 5 being deleted.
define('open', {}, function(keys, args)
  local key = keys[1]
  local h = redis.call('GETRANGE', key, 0, HEADER - 1)
  local policy, lease, retention, p = take('>BI8I8', args[1])
  local digest = sub(args[1], p)
  if h ~= '' then
    if #h ~= HEADER or sub(h, 1, 4) ~= 'BHR1' then error('damaged: header of a run') end
    if byte(h, 5) == PURGING then return '\5' end
    return sub(h, 73) == digest and '\1' or '\3'
  end
  local m = sub(key, 1, -2) .. 'm'
  redis.call('HLEN', m)
  redis.call('HSET', m, 'name', args[2], 'header', args[3])
  redis.call('SET', key, 'BHR1' .. pack('>BBBBI8I8I8I4I4I8I8I8I8', OPEN, policy, 0, 0, 0, 0, 0, 0, 0,
    now_ms() + lease, 0, lease, retention) .. digest)
  return '\0'
end)
