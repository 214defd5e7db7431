-- rearm: an argument for each lost result: segment u32, index u16, locator 8, inputs u32,
-- successors u32, then these, 6 bytes each. Answers 0 and for each: 0 pending again | 1 already |
-- 2 moved | 3 too often | 4 not needed | 5 of an effect, and its pending inputs u32.

-- A consumer that is pending waits for `from` again: it, its index, state byte and count before.
local function block(r, from, to)
  local k, i = take('>I4I2', to)
  local b = load_arena(r, k)
  if not b or i >= b.n then return end
  local s = state_at(b, i)
  if s % 8 ~= 0 then return end
  if s % 16 == 8 and forward_target(r, b, i) ~= from then return end
  local before = word_at(b, b.pend, i)
  put_word(b, b.pend, i, before + 1)
  return b, i, s, before
end

-- A task counts as a consumer of its inputs again; how many of these are pending.
local function consume_again(r, inputs)
  local pending = 0
  for p = 1, #inputs, 6 do
    local k, j = take('>I4I2', inputs, p)
    local input = active(r, k)
    if input and j < input.n then
      if state_at(input, j) % 8 == 0 then pending = pending + 1 end
      put_word(input, input.cons, j, word_at(input, input.cons, j) + 1)
    end
  end
  return pending
end

-- The consumers of a task in later segments, with their arenas loaded.
local function later_of(r, k, i)
  local list = redis.call('HGET', r.prefix .. 'x:' .. k, i) or ''
  for p = 1, #list, 6 do load_arena(r, (take('>I4', list, p))) end
  return list
end

-- Whether one of these consumers has finished with what it was given.
local function was_used(r, list)
  for p = 1, #list, 6 do
    local k, i = take('>I4I2', list, p)
    local b = active(r, k)
    local state = b and i < b.n and state_at(b, i) % 8
    if state == 1 or state == 4 then return true end
  end
  return false
end

local function rearm_one(r, lost)
  local a = active(r, lost.k)
  if not a or lost.i >= a.n then return 4, 0 end
  local i = lost.i
  local b = state_at(a, i)
  local state, generation = b % 8, floor(b / 16)
  if state == 0 then return 1, 0 end
  if state ~= 1 and state ~= 4 then return 2, 0 end
  local at = a.loc + 8 * i
  if redis.call('GETRANGE', a.key, at, at + 7) ~= lost.locator then return 2, 0 end
  local v = word_at(a, a.cons, i)
  -- A run all of whose tasks have finished is reopened for a result that was to be kept.
  local complete = r.state == DONE or r.state == FAILED and r.finished == r.tasks
  if not (is_running(r) or complete and v >= PINNED) or v == 0 or v == KEPT then return 4, 0 end
  if v % PINNED >= KEPT then return 5, 0 end
  if generation >= 15 then return 3, 0 end
  -- The record of a held result stays when a consumer has used it.
  local keep = byte(lost.locator) == 10 and b % 16 < 8
    and (was_used(r, lost.successors) or was_used(r, lost.later))
  for p = 1, #lost.successors, 6 do block(r, lost.task, sub(lost.successors, p, p + 5)) end
  for p = 1, #lost.later, 6 do block(r, lost.task, sub(lost.later, p, p + 5)) end
  local pending = consume_again(r, lost.inputs)
  redis.call('SETRANGE', a.key, a.st + i, char(16 * (generation + 1)))
  put_word(a, a.pend, i, pending)
  redis.call('SETRANGE', a.key, at, NONE)
  if not keep then redis.pcall('HDEL', bucket(r, a.k, i), i) end
  r.finished = r.finished - 1
  if complete then
    r.state = CLOSED
    r.ended = 0
  end
  return 0, pending
end

-- The task that `arg` begins with, and its edges from place p on: inputs, then successors, 6 bytes
-- each. Loads every arena they are in, before anything is written.
local function with_edges(r, one, arg, p, inputs, successors)
  local middle = p + 6 * inputs
  one.task = sub(arg, 1, 6)
  one.inputs = sub(arg, p, middle - 1)
  one.successors = sub(arg, middle, middle + 6 * successors - 1)
  one.later = later_of(r, one.k, one.i)
  load_arena(r, one.k)
  for q = p, #arg, 6 do load_arena(r, (take('>I4', arg, q))) end
  return one
end

define('rearm', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local all = {}
  for n, arg in ipairs(args) do
    local k, i, locator, inputs, successors, p = take('>I4I2c8I4I4', arg)
    all[n] = with_edges(r, {k = k, i = i, locator = locator}, arg, p, inputs, successors)
  end
  local out = {'\0'}
  for n, lost in ipairs(all) do out[n + 1] = pack('>BI4', rearm_one(r, lost)) end
  save_run(r)
  return concat(out)
end)
