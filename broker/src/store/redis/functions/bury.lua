
-- Workers; KEYS[1] is the set of all, KEYS[2] the zset of those that went without a farewell, by when
-- that was noticed.

-- bury: 1 now_ms u64, kept_ms u64, then index u32 of each record in KEYS[3..]. Those without a record
-- are workers no longer, but dead; in one step, so that one that comes back meanwhile is a worker.
define('bury', {'allow-oom'}, function(keys, args)
  local now, kept, at = take('>I8I8', args[1])
  for n = 3, #keys do
    local index
    index, at = take('>I4', args[1], at)
    if redis.call('EXISTS', keys[n]) == 0 then
      redis.call('ZADD', keys[2], now, index)
      redis.call('SREM', keys[1], index)
    end
  end
  redis.call('ZREMRANGEBYSCORE', keys[2], '-inf', now - kept)
  redis.call('PEXPIRE', keys[2], kept)
  return '\0'
end)
