-- commit: 1 fixed (segment u32, count u16, failed u16, spawned segment u32 or 0, its digest 16, then
--     the life of the server in which it was computed, or nothing)
--   2 outbox field             3 runs of finished tasks (first u16, length u16)*
--   4 state bytes expected     5 state bytes to write           6 locators
--   7 releases, 8 consumed: groups (segment u32, first u16, span u16, a count u8 for each place)*
--   9 special ends (place in the commit u16, 1 failed | 2 kept | 3 forwarded, leased u8, nonce 8,
--     target 6)*
--   10 segments touched u32*   11 settled outbox fields, separated by blanks
--   12.. records: bucket number, count, then as many of index, value; again
-- Answers 0 run state u8, length u32 of the ready, these, what was freed | 3 (state u8, locator)*
-- when some are not to be finished like this | 6 when it is another life | 1, 2 as ever.

-- The life of this server, found out once in it.
local life
local function is_life(of)
  life = life or string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  return of == life
end

-- Whether a consumed list names the task of 6 bytes.
local function names(groups, task)
  local k, i = take('>I4I2', task)
  local p = 1
  while p <= #groups do
    local segment, first, span
    segment, first, span, p = take('>I4I2I2', groups, p)
    if segment == k and i >= first and i < first + span and byte(groups, p + i - first) > 0 then
      return true
    end
    p = p + span
  end
  return false
end

-- Whether all inputs are of segments that are part of the run: others come from a past that was
-- undone.
local function known_inputs(r, groups)
  local p = 1
  while p <= #groups do
    local k, _, span
    k, _, span, p = take('>I4I2I2', groups, p)
    if not active(r, k) then return false end
    p = p + span
  end
  return true
end

-- The states and locators of all tasks of a commit, whatever they are.
local function standing(r, a, runs)
  local out, p = {'\3'}, 1
  while p <= #runs do
    local first, l
    first, l, p = take('>I2I2', runs, p)
    for i = first, first + l - 1 do
      if a and a.active and i < a.n then
        out[#out + 1] = redis.call('GETRANGE', a.key, a.st + i, a.st + i)
        out[#out + 1] = redis.call('GETRANGE', a.key, a.loc + 8 * i, a.loc + 8 * i + 7)
      else
        out[#out + 1] = '\4' .. NONE
      end
    end
  end
  return concat(out)
end

-- Whether every task is pending at the expected generation; also the forwarded ones among them,
-- as {place, index, target}. A task that was forwarded is finished only by who consumes its target.
local function fresh_states(r, a, args)
  local runs, expected, forwarded, p, q = args[3], args[4], {}, 1, 1
  while p <= #runs do
    local first, l
    first, l, p = take('>I2I2', runs, p)
    if first + l > a.n then return false end
    local s = redis.call('GETRANGE', a.key, a.st + first, a.st + first + l - 1)
    if s ~= sub(expected, q, q + l - 1) then
      for i = 1, l do
        local b, e = byte(s, i), byte(expected, q + i - 1)
        if b ~= e then
          if b ~= e + 8 then return false end
          local target = forward_target(r, a, first + i - 1)
          if not target or not names(args[8], target) then return false end
          forwarded[#forwarded + 1] = {q + i - 1, first + i - 1, target}
        end
      end
    end
    q = q + l
  end
  return true, forwarded
end

-- The special ends by kind, or nil when one of them is fenced off or makes no sense.
local function fresh_ends(r, a, args, ids, forwarded, spawned)
  local ends, p = {}, 1
  while p <= #args[9] do
    local place, kind, leased, nonce, target
    place, kind, leased, nonce, target, p = take('>I2BBc8c6', args[9], p)
    local i = ids[place + 1]
    if kind == 3 then
      local k, j = take('>I4I2', target)
      if #forwarded > 0 or not spawned or k ~= spawned.k or j >= spawned.n then return nil end
    elseif r.attempts == 1 then
      local lease = redis.call('HGET', r.prefix .. 'l', pack('>I4I2', a.k, i))
      if lease and take('>I8', lease, 25) > now_ms()
        and not (leased == 1 and sub(lease, 17, 24) == nonce) then return nil end
    end
    ends[#ends + 1] = {kind = kind, index = i, target = target}
  end
  return ends
end

-- One edge from an earlier segment is satisfied.
local function release_later(r, from, to, ready, special)
  local k, i = take('>I4I2', to)
  local b = load_arena(r, k)
  if not b or i >= b.n then return end
  local s = state_at(b, i)
  if s % 8 ~= 0 then return end
  local target = s % 16 == 8 and forward_target(r, b, i)
  if target and target ~= from then return end
  local v = word_at(b, b.pend, i)
  if v > 0 then
    v = v - 1
    put_word(b, b.pend, i, v)
  end
  if v == 0 and b.active then note_ready(special, ready, k, i, s, target) end
end

-- One group of releases, place by place.
local function release_span(b, first, groups, p, states, column, ready, special)
  local size = #states
  local counts, old, t = {byte(groups, p, p + size - 1)}, {byte(states, 1, size)}, {take(words(size), column)}
  local hit, n, changed = {}, 0, false
  for i = 1, size do
    local c = counts[i]
    if c > 0 and old[i] % 16 == 0 then
      local v = t[i]
      if v > 0 then
        v = v > c and v - c or 0
        t[i] = v
        changed = true
      end
      if v > 0 then
        -- Others are still pending.
      elseif old[i] == 0 then
        n = n + 1
        hit[n] = first + i - 1
      elseif b.active then
        note_ready(special, ready, b.k, first + i - 1, old[i], false)
      end
    end
  end
  if changed then
    redis.call('SETRANGE', b.key, b.pend + 4 * first, pack(words(size), unpack(t, 1, size)))
  end
  if n > 0 and b.active then
    ready[#ready + 1] = pack('>I4I2' .. rep('I2', n), b.k, n, unpack(hit, 1, n))
  end
end

-- Neighbours that wait for one task each are the common case: nothing is unpacked for them.
local function release_groups(r, groups, ready, special)
  local call, p = redis.call, 1
  while p <= #groups do
    local k, first, span
    k, first, span, p = take('>I4I2I2', groups, p)
    local b = load_arena(r, k)
    local size = b and min(span, b.n - first) or 0
    if size > 0 then
      local states = call('GETRANGE', b.key, b.st + first, b.st + first + size - 1)
      local at = b.pend + 4 * first
      local column = call('GETRANGE', b.key, at, at + 4 * size - 1)
      if b.active and column == rep('\0\0\0\1', size) and states == rep('\0', size)
        and sub(groups, p, p + size - 1) == rep('\1', size) then
        call('SETRANGE', b.key, at, rep('\0\0\0\0', size))
        ready[#ready + 1] = pack('>I4I2I2I2', k, 32769, first, first + size - 1)
      else
        release_span(b, first, groups, p, states, column, ready, special)
      end
    end
    p = p + span
  end
end

-- The consumers of one group of inputs, place by place; the places that nobody needs any more.
local function consume_span(b, first, groups, p, size, column)
  local counts, t = {byte(groups, p, p + size - 1)}, {take(words(size), column)}
  local zeros, n = {}, 0
  for i = 1, size do
    local c = counts[i]
    if c > 0 then
      local v = t[i]
      local low = v % KEPT
      v = v - (low > c and c or low)
      t[i] = v
      if v == 0 then
        n = n + 1
        zeros[n] = i
      end
    end
  end
  redis.call('SETRANGE', b.key, b.cons + 4 * first, pack(words(size), unpack(t, 1, size)))
  return zeros
end

-- Neighbours with one consumer each are the common case.
local function consume_groups(r, groups, freed)
  local call, p = redis.call, 1
  while p <= #groups do
    local k, first, span
    k, first, span, p = take('>I4I2I2', groups, p)
    local b = active(r, k)
    local size = b and min(span, b.n - first) or 0
    if size > 0 then
      local at = b.cons + 4 * first
      local column = call('GETRANGE', b.key, at, at + 4 * size - 1)
      if column == rep('\0\0\0\1', size)
        and sub(groups, p, p + size - 1) == rep('\1', size) then
        call('SETRANGE', b.key, at, rep('\0\0\0\0', size))
        free_span(r, b, first, size, ALL, freed)
      else
        local zeros = consume_span(b, first, groups, p, size, column)
        if #zeros > 0 then free_span(r, b, first, size, zeros, freed) end
      end
    end
    p = p + span
  end
end

-- Frees the finished that nobody needs; the events of the pinned ones. A task that was forwarded
-- by this commit is pending and makes no event.
local function own_consumers(r, a, args, freed)
  local runs, events, p, q = args[3], {}, 1, 1
  while p <= #runs do
    local first, l
    first, l, p = take('>I2I2', runs, p)
    local at = a.cons + 4 * first
    local column = redis.call('GETRANGE', a.key, at, at + 4 * l - 1)
    local t, zeros, n = {take(words(l), column)}, {}, 0
    for i = 1, l do
      local v = t[i]
      if v == 0 then
        n = n + 1
        zeros[n] = i
      elseif v >= PINNED and byte(args[5], q + i - 1) % 8 ~= 0 then
        local place = q + i - 1
        events[#events + 1] = pack('>I4I2', a.k, first + i - 1) .. sub(args[5], place, place)
          .. sub(args[6], 8 * place - 7, 8 * place)
      end
    end
    if n > 0 then free_span(r, a, first, l, zeros, freed) end
    q = q + l
  end
  return concat(events)
end

-- What only some commits have: forwarding, effects, failures, tasks that had been forwarded.
local function special_writes(r, a, ends, was_forwarded, spawned)
  for _, was in ipairs(was_forwarded) do
    local _, i, target = unpack(was)
    local k, j = take('>I4I2', target)
    local key, own = r.prefix .. 'x:' .. k, pack('>I4I2', a.k, i)
    local list, kept = redis.call('HGET', key, j) or '', {}
    for p = 1, #list, 6 do
      if sub(list, p, p + 5) ~= own then kept[#kept + 1] = sub(list, p, p + 5) end
    end
    if #kept > 0 then redis.call('HSET', key, j, concat(kept)) else redis.call('HDEL', key, j) end
    redis.call('HDEL', bucket(r, a.k, i), i)
  end
  for _, finished in ipairs(ends) do
    local i = finished.index
    if finished.kind == 2 then
      local v = word_at(a, a.cons, i)
      if v % PINNED < KEPT then put_word(a, a.cons, i, v + KEPT) end
    elseif finished.kind == 3 then
      local _, j = take('>I4I2', finished.target)
      redis.call('HSET', bucket(r, a.k, i), i, finished.target)
      put_word(a, a.pend, i, 0)
      connect(r, spawned, j, a, i, true)
    end
  end
end

-- Raises when a key that will be written has a wrong type; loads every arena it will touch.
local function check_keys(r, a, args, laters, ends, was_forwarded)
  for p = 1, #args[10], 4 do load_arena(r, (take('>I4', args[10], p))) end
  for _, list in ipairs(laters) do
    for p = 1, list and #list or 0, 6 do load_arena(r, (take('>I4', list, p))) end
  end
  local at = 12
  while at <= #args do
    redis.call('HLEN', r.prefix .. 'r:' .. a.k .. ':' .. args[at])
    at = at + 2 + 2 * args[at + 1]
  end
  redis.call('XLEN', r.prefix .. 'e')
  for _, finished in ipairs(ends) do
    if finished.kind == 1 then redis.call('HLEN', r.prefix .. 'm') end
  end
  if r.attempts == 1 then
    redis.call('HLEN', r.prefix .. 'l')
    redis.call('ZCARD', r.prefix .. 'q')
  end
  for _, finished in ipairs(ends) do
    if finished.kind == 3 then
      redis.call('HLEN', bucket(r, a.k, finished.index))
      redis.call('HLEN', r.prefix .. 'x:' .. (take('>I4', finished.target)))
      redis.call('ZCARD', r.prefix .. 's')
    end
  end
  for _, was in ipairs(was_forwarded) do
    redis.call('HLEN', r.prefix .. 'x:' .. (take('>I4', was[3])))
  end
end

local function put_records(r, a, args)
  local at = 12
  note_records(a)
  while at <= #args do
    local fields = 2 * args[at + 1]
    redis.call('HSET', r.prefix .. 'r:' .. a.k .. ':' .. args[at], unpack(args, at + 2, at + 1 + fields))
    at = at + 2 + fields
  end
end

local function indexes(runs)
  local ids, p = {}, 1
  while p <= #runs do
    local first, l
    first, l, p = take('>I2I2', runs, p)
    for i = first, first + l - 1 do ids[#ids + 1] = i end
  end
  return ids
end

-- What rearming has left beside tasks, to compare their next results with.
local function drop_earlier(r, a, args)
  if not find(args[4], '[^%z\8]') then return end
  for place, i in ipairs(indexes(args[3])) do
    if byte(args[4], place) >= 16 then redis.pcall('HDEL', bucket(r, a.k, i), i) end
  end
end

local function drop_attempts(r, a, ids)
  local tasks = {}
  for place, i in ipairs(ids) do tasks[place] = pack('>I4I2', a.k, i) end
  redis.call('HDEL', r.prefix .. 'l', unpack(tasks))
  redis.call('ZREM', r.prefix .. 'q', unpack(tasks))
end

define('commit', {'allow-oom'}, function(keys, args)
  local call = redis.call
  local r, no = load_run(keys[1])
  if not r then return no end
  if not is_running(r) then return '\2' .. char(r.state) end
  local outbox = r.prefix .. 'o'
  local again = call('HGET', outbox, args[2])
  if again then return '\0' .. char(r.state) .. pack('>I4', #again) .. again end

  local k, count, failed, spawn, digest, at = take('>I4I2I2I4c16', args[1])
  if at <= #args[1] and not is_life(sub(args[1], at)) then return '\6' end
  local a = active(r, k)
  if not a then return standing(r, a, args[3]) end
  local spawned = spawn > 0 and load_arena(r, spawn)
  local sound = spawn == 0 or (spawned and spawn >= SPAWNED and count == 1
    and not spawned.active and spawned.digest == digest)
  local fresh, was_forwarded
  if sound and known_inputs(r, args[8]) then fresh, was_forwarded = fresh_states(r, a, args) end
  if not fresh then return standing(r, a, args[3]) end
  local special = #args[9] > 0
  local ids = (special or r.attempts == 1 or a.later) and indexes(args[3])
  local ends = {}
  if special then
    ends = fresh_ends(r, a, args, ids, was_forwarded, spawned)
    if not ends then return standing(r, a, args[3]) end
  end
  local laters = a.later and call('HMGET', r.prefix .. 'x:' .. k, unpack(ids)) or {}
  check_keys(r, a, args, laters, ends, was_forwarded)

  if args[11] ~= '' then
    for field in string.gmatch(args[11], '%S+') do call('HDEL', outbox, field) end
  end
  local ready, odd, freed = {}, {}, {}
  if spawned then put_ranges(ready, spawn, start_segment(r, spawned)) end
  local p, q = 1, 1
  while p <= #args[3] do
    local first, l
    first, l, p = take('>I2I2', args[3], p)
    call('SETRANGE', a.key, a.st + first, sub(args[5], q, q + l - 1))
    call('SETRANGE', a.key, a.loc + 8 * first, sub(args[6], 8 * q - 7, 8 * (q + l - 1)))
    q = q + l
  end
  local first_failed, going_on = nil, 0
  drop_earlier(r, a, args)
  if special or #was_forwarded > 0 then
    special_writes(r, a, ends, was_forwarded, spawned)
    for _, finished in ipairs(ends) do
      if finished.kind == 1 and not first_failed then
        first_failed = pack('>I4I2', k, finished.index)
      elseif finished.kind == 3 then
        going_on = going_on + 1
      end
    end
  end
  if #args >= 12 then put_records(r, a, args) end
  if r.attempts == 1 then drop_attempts(r, a, ids) end
  if going_on == 0 then
    for place, list in ipairs(laters) do
      local from = list and pack('>I4I2', k, ids[place])
      for at = 1, list and #list or 0, 6 do
        release_later(r, from, sub(list, at, at + 5), ready, odd)
      end
    end
  end
  release_groups(r, args[7], ready, odd)
  consume_groups(r, args[8], freed)
  local events = own_consumers(r, a, args, freed)
  if events ~= '' then
    call('XADD', r.prefix .. 'e', 'MAXLEN', '~', EVENTS_MAX, '0-*', 'f', events)
  end
  r.finished = r.finished + count - going_on
  r.failed = r.failed + failed
  if first_failed then
    call('HSETNX', r.prefix .. 'm', 'reason', 'T' .. first_failed)
    if r.policy == 0 then end_run(r, FAILED, nil) end
  end
  end_if_finished(r)
  save_run(r)
  local list = is_running(r) and put_ready(odd, ready) or ''
  if list ~= '' then call('HSET', outbox, args[2], list) end
  return '\0' .. char(r.state) .. pack('>I4', #list) .. list .. concat(freed)
end)
