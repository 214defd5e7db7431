-- What the client does with a run: pins, life, end.

-- unpin: 1 groups (segment u32, first u16, span u16, 1 u8 for each place to unpin)*. Answers 0 and
-- what was freed.
define('unpin', {'allow-oom'}, function(keys, args)
  local call = redis.call
  local r, no = load_run(keys[1])
  if not r then return no end
  local groups, freed, p = args[1], {}, 1
  while p <= #groups do
    local k, _, span, at = take('>I4I2I2', groups, p)
    load_arena(r, k)
    p = at + span
  end
  p = 1
  while p <= #groups do
    local k, first, span
    k, first, span, p = take('>I4I2I2', groups, p)
    local a = active(r, k)
    local size = a and min(span, a.n - first) or 0
    if size > 0 then
      local at = a.cons + 4 * first
      local t = {take(words(size), call('GETRANGE', a.key, at, at + 4 * size - 1))}
      local zeros = {}
      for i = 1, size do
        if byte(groups, p + i - 1) > 0 then
          t[i] = t[i] % PINNED
          if t[i] == 0 then zeros[#zeros + 1] = i end
        end
      end
      call('SETRANGE', a.key, at, pack(words(size), unpack(t, 1, size)))
      if #zeros > 0 then free_span(r, a, first, size, zeros, freed) end
    end
    p = p + span
  end
  return '\0' .. concat(freed)
end)

-- close (1 segments u32 that it must have, 2 the digest of the last of them if it matters), cancel
-- (1 why), keep_alive: 0 and the state of the run | 3 when the last is another | 7 when it lacks some.
define('close', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  if r.state == OPEN then
    local wanted = take('>I4', args[1])
    local a = wanted > 0 and active(r, wanted - 1)
    if wanted > 0 and not a then return '\7' end
    if a and args[2] and a.digest ~= args[2] then return '\3' end
    check_ending(r)
    r.state = CLOSED
    end_if_finished(r)
    save_run(r)
  end
  return '\0' .. char(r.state)
end)

define('cancel', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  if is_running(r) then
    check_ending(r)
    end_run(r, CANCELLED, 'C' .. args[1])
    save_run(r)
  end
  return '\0' .. char(r.state)
end)

define('keep_alive', {'allow-oom'}, function(keys)
  local r, no = load_run(keys[1])
  if not r then return no end
  r.client_until = now_ms() + take('>I8', r.header, 57)
  save_run(r)
  return '\0' .. char(r.state)
end)

-- settle: 1 outbox field 2 what it was read as. Answers 0 deleted | 3 it reads differently.
define('settle', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  if redis.call('HGET', r.prefix .. 'o', args[1]) ~= args[2] then return '\3' end
  redis.call('HDEL', r.prefix .. 'o', args[1])
  return '\0'
end)

-- lock: 1 owner 16 2 hold_ms. Answers 0 yours | 3 another's.
define('lock', {'allow-oom'}, function(keys, args)
  local key = sub(keys[1], 1, -2) .. 'k'
  local owner = redis.call('GET', key)
  if owner and owner ~= args[1] then return '\3' end
  redis.call('SET', key, args[1], 'PX', args[2])
  return '\0'
end)
