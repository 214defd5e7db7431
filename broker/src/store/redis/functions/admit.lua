-- Permits of tasks that may run only so often at once; KEYS[1] is the task's own key, a hash:
-- owner 16 -> permits u32, until_ms u64. A key lives as long as its last permit.

-- admit: 1 owner 16, wanted u32, max u32, hold_ms u64. What the owner has is made as many as wanted, as
-- far as others leave some of max. Answers 0 granted u32.
define('admit', {'allow-oom'}, function(keys, args)
  local owner, wanted, max, hold = take('>c16I4I4I8', args[1])
  local now = now_ms()
  local free, over = max, {}
  local all = redis.call('HGETALL', keys[1])
  for n = 1, #all, 2 do
    local count, until_ms = take('>I4I8', all[n + 1])
    if until_ms <= now then
      over[#over + 1] = all[n]
    elseif all[n] ~= owner then
      free = free - count
    end
  end
  local granted = min(wanted, free)
  if granted <= 0 then
    granted = 0
    over[#over + 1] = owner
  end
  for _, gone in ipairs(over) do redis.call('HDEL', keys[1], gone) end
  if granted > 0 then
    redis.call('HSET', keys[1], owner, pack('>I4I8', granted, now + hold))
    redis.call('PEXPIRE', keys[1], hold, 'NX')
    redis.call('PEXPIRE', keys[1], hold, 'GT')
  end
  return '\0' .. pack('>I4', granted)
end)
