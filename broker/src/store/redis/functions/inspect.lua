-- Readers.

-- inspect: 1 tasks of 6 bytes. Answers 0 and for each: 0 unknown | 1 state u8, pending u32,
-- consumers u32, locator 8, failures u32, recorded u8, length u32, record.
define('inspect', {'no-writes'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local out = {'\0'}
  for p = 1, #args[1], 6 do
    local k, i = take('>I4I2', args[1], p)
    local a = active(r, k)
    if not a or i >= a.n then
      out[#out + 1] = '\0'
    else
      local b = state_at(a, i)
      local l = redis.call('GETRANGE', a.key, a.loc + 8 * i, a.loc + 8 * i + 7)
      -- Of a task that waits: what it was forwarded to, or the record of a result that was lost.
      local waits = b % 8 == 0 and b >= 8
      local record = (byte(l) >= 9 or waits) and redis.call('HGET', bucket(r, k, i), i)
      local failures = 0
      if r.attempts == 1 then
        failures = redis.call('HGET', r.prefix .. 'f', sub(args[1], p, p + 5)) or 0
      end
      out[#out + 1] = '\1' .. char(b) .. pack('>I4I4', word_at(a, a.pend, i), word_at(a, a.cons, i)) .. l
        .. pack('>I4BI4', failures, record and 1 or 0, record and #record or 0)
      out[#out + 1] = record or ''
    end
  end
  return concat(out)
end)

-- status: 0, the header, then for name, header map and reason: length u32, bytes.
define('status', {'no-writes'}, function(keys)
  local r, no = load_run(keys[1])
  if not r then return no end
  local out = {'\0', r.header}
  for _, field in ipairs(redis.call('HMGET', r.prefix .. 'm', 'name', 'header', 'reason')) do
    out[#out + 1] = pack('>I4', field and #field or 0)
    out[#out + 1] = field or ''
  end
  return concat(out)
end)

-- ready: 1 tasks of 6 bytes that looked ready. Answers 0 and those that are, as ready tasks.
define('ready', {'no-writes'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local now, special, groups = now_ms(), {}, {}
  for p = 1, #args[1], 6 do
    local k, i = take('>I4I2', args[1], p)
    local task = sub(args[1], p, p + 5)
    local a = active(r, k)
    local b = a and i < a.n and state_at(a, i)
    if b and b % 8 == 0 and word_at(a, a.pend, i) == 0 then
      local free = true
      if r.attempts == 1 then
        local lease = redis.call('HGET', r.prefix .. 'l', task)
        local due = tonumber(redis.call('ZSCORE', r.prefix .. 'q', task) or 0)
        free = due <= now and not (lease and take('>I8', lease, 25) > now)
      end
      if free then
        note_ready(special, groups, k, i, b, b % 16 == 8 and forward_target(r, a, i))
      end
    end
  end
  return '\0' .. put_ready(special, groups)
end)

-- overdue: 1 when the run was listed, 2 how long its client may need to make it. Answers 0 not | 1
-- the client of an open run is silent, or an ended one has outlived its retention, or only a part
-- of the run is left, or it was listed and never made.
define('overdue', {'no-writes'}, function(keys, args)
  local h = redis.call('GETRANGE', keys[1], 0, HEADER - 1)
  if h == '' then return args[1] + args[2] <= now_ms() and '\1' or '\0' end
  if #h ~= HEADER or byte(h, 5) == PURGING then return '\1' end
  local client_until, ended, _, retention = take('>I8I8I8I8', h, 41)
  local now = now_ms()
  local silent = byte(h, 5) == OPEN and client_until <= now
  return (silent or ended > 0 and ended + retention <= now) and '\1' or '\0'
end)
