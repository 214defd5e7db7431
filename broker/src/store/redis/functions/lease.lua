-- Leases of long tasks and attempts to come. A lease: holder 16, nonce 8, until_ms u64.

local function is_at(r, k, i, generation)
  local a = active(r, k)
  if not a or i >= a.n then return false end
  local b = state_at(a, i)
  return b % 8 == 0 and floor(b / 16) == generation
end

-- From the first of them on, commits look for leases and due times.
local function note_attempts(r)
  if r.attempts == 0 then
    r.attempts = 1
    save_run(r)
  end
end

local NO_SUSPECT = 4294967295

-- lease: 1 holder 16, lease_ms u64; 2 requests (task 6, generation u8, over u8, nonce 8, over 8)*.
-- Answers 0 and for each 25 bytes: 0 granted, attempt u32, crashes of a suspect u32 or none
-- (all ones) | 1 taken, holder 16, nonce 8 | 2 over | 3 not due, at_ms u64.
local function lease_one(r, holder, until_ms, now, request, p)
  local k, i, generation, over, nonce, old = take('>I4I2BBc8c8', request, p)
  if not is_running(r) or not is_at(r, k, i, generation) then return '\2' end
  local task = sub(request, p, p + 5)
  local due = tonumber(redis.call('ZSCORE', r.prefix .. 'q', task) or 0)
  if due > now then return '\3' .. pack('>I8', due) end
  local lease = redis.call('HGET', r.prefix .. 'l', task)
  if lease and take('>I8', lease, 25) > now then
    local current = sub(lease, 17, 24)
    if current ~= nonce and not (over == 1 and current == old) then return '\1' .. sub(lease, 1, 24) end
  end
  redis.call('HSET', r.prefix .. 'l', task, holder .. nonce .. pack('>I8', until_ms))
  local failures = redis.call('HGET', r.prefix .. 'f', task) or 0
  local crashes = redis.call('HGET', r.prefix .. 'c', task) or NO_SUSPECT
  return '\0' .. pack('>I4I4', 1 + failures, crashes)
end

define('lease', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  for _, key in ipairs{'l', 'f', 'c'} do redis.call('HLEN', r.prefix .. key) end
  redis.call('ZCARD', r.prefix .. 'q')
  for p = 1, #args[2], 24 do load_arena(r, (take('>I4', args[2], p))) end
  local now = now_ms()
  local until_ms = now + take('>I8', args[1], 17)
  local out = {'\0'}
  note_attempts(r)
  for p = 1, #args[2], 24 do
    local reply = lease_one(r, sub(args[1], 1, 16), until_ms, now, args[2], p)
    out[#out + 1] = reply .. rep('\0', 25 - #reply)
  end
  return concat(out)
end)

-- unlease: 1 leases (task 6, nonce 8)*: those of these nonces end.
define('unlease', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  for p = 1, #args[1], 14 do
    local task, nonce = take('>c6c8', args[1], p)
    local lease = redis.call('HGET', r.prefix .. 'l', task)
    if lease and sub(lease, 17, 24) == nonce then redis.call('HDEL', r.prefix .. 'l', task) end
  end
  return '\0'
end)

-- evict: 1 holder 16. Ends its leases. Answers 0 and those of its tasks that are ready (see
-- `put_ready`).
define('evict', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  if not is_running(r) or r.attempts == 0 then return '\0' end
  local leases = redis.call('HGETALL', r.prefix .. 'l')
  local tasks, special, groups = {}, {}, {}
  for n = 1, #leases, 2 do
    if sub(leases[n + 1], 1, 16) == args[1] then
      local k, i = take('>I4I2', leases[n])
      local a = active(r, k)
      tasks[#tasks + 1] = leases[n]
      if a and i < a.n and word_at(a, a.pend, i) == 0 then
        local b = state_at(a, i)
        local target = b % 16 == 8 and forward_target(r, a, i)
        if b % 8 == 0 then note_ready(special, groups, k, i, b, target) end
      end
    end
  end
  for _, task in ipairs(tasks) do redis.call('HDEL', r.prefix .. 'l', task) end
  return '\0' .. put_ready(special, groups)
end)

-- retry: 1 task 6, generation u8, setback u8 (0 failed | 1 stuck | 2 crashed), attempt u32, leased u8,
-- nonce 8, delay_ms u64. Answers 0 at_ms u64 | 3 stale.
define('retry', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local k, i, generation, setback, attempt, leased, nonce, delay = take('>I4I2BBI4Bc8I8', args[1])
  local task = sub(args[1], 1, 6)
  local counts = r.prefix .. (setback == 2 and 'c' or 'f')
  redis.call('ZCARD', r.prefix .. 'q')
  redis.call('HLEN', r.prefix .. 'c')
  local counted = redis.call('HGET', counts, task) or 0
  if not is_running(r) or not is_at(r, k, i, generation) or counted + 1 ~= attempt then return '\3' end
  local now = now_ms()
  local lease = redis.call('HGET', r.prefix .. 'l', task)
  if lease and take('>I8', lease, 25) > now and not (leased == 1 and sub(lease, 17, 24) == nonce) then
    return '\3'
  end
  note_attempts(r)
  redis.call('HSET', counts, task, attempt)
  if setback == 1 then redis.call('HSETNX', r.prefix .. 'c', task, 0) end
  redis.call('ZADD', r.prefix .. 'q', now + delay, task)
  redis.call('HDEL', r.prefix .. 'l', task)
  return '\0' .. pack('>I8', now + delay)
end)
