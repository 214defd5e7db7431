-- revive: an argument for each failed or skipped task: segment u32, index u16, generation u8,
-- inputs u32, successors u32, then these, 6 bytes each. Answers 0 and for each: 0 pending | 1 stale
-- | 2 too often | 3 the run has not ended, and its pending inputs u32.
local function revive_one(r, one)
  local a = active(r, one.k)
  if not a or one.i >= a.n then return 1, 0 end
  local i = one.i
  local b = state_at(a, i)
  local state, generation = b % 8, floor(b / 16)
  if state == 0 and generation == one.generation + 1 then return 0, word_at(a, a.pend, i) end
  if r.state ~= FAILED and r.state ~= CANCELLED then return 3, 0 end
  if state ~= 2 and state ~= 3 or generation ~= one.generation then return 1, 0 end
  if generation >= 15 then return 2, 0 end
  for _, list in ipairs{one.successors, one.later} do
    for p = 1, #list, 6 do
      local to, j, s, before = block(r, one.task, sub(list, p, p + 5))
      -- It was ready to be skipped: a commit that does so must come too late.
      if to and to.active and before == 0 and s < 240 then
        redis.call('SETRANGE', to.key, to.st + j, char(s + 16))
      end
    end
  end
  local pending = consume_again(r, one.inputs)
  redis.call('SETRANGE', a.key, a.st + i, char(16 * (generation + 1)))
  put_word(a, a.pend, i, pending)
  redis.call('SETRANGE', a.key, a.loc + 8 * i, NONE)
  redis.pcall('HDEL', bucket(r, a.k, i), i)
  if r.attempts == 1 then
    for _, key in ipairs{'f', 'c'} do redis.call('HDEL', r.prefix .. key, one.task) end
  end
  r.finished = r.finished - 1
  if state == 2 then r.failed = r.failed - 1 end
  return 0, pending
end

define('revive', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  for _, key in ipairs{'f', 'c'} do redis.call('HLEN', r.prefix .. key) end
  local all = {}
  for n, arg in ipairs(args) do
    local k, i, generation, inputs, successors, p = take('>I4I2BI4I4', arg)
    all[n] = with_edges(r, {k = k, i = i, generation = generation}, arg, p, inputs, successors)
  end
  local out = {'\0'}
  for n, one in ipairs(all) do out[n + 1] = pack('>BI4', revive_one(r, one)) end
  save_run(r)
  return concat(out)
end)

-- resume: 0 and the state of the run, which goes on when it had ended and no task counts as failed.
define('resume', {'allow-oom'}, function(keys)
  local r, no = load_run(keys[1])
  if not r then return no end
  if (r.state == FAILED or r.state == CANCELLED) and r.failed == 0 then
    check_ending(r)
    r.state, r.ended = CLOSED, 0
    redis.call('HDEL', r.prefix .. 'm', 'reason')
    end_if_finished(r)
    save_run(r)
  end
  return '\0' .. char(r.state)
end)
