-- Damage is put right. Both do nothing when what was found stands no more.

-- mend: 1 for each task: segment u32, index u16, found: state u8, pending u32, consumers u32; right:
-- pending u32, consumers u32. Answers 0 and for each: 1 done | 0 it has changed.
define('mend', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local out, freed = {'\0'}, {}
  for p = 1, #args[1], 23 do load_arena(r, (take('>I4', args[1], p))) end
  for p = 1, #args[1], 23 do
    local k, i, state, pending, consumers, blocked, needed = take('>I4I2BI4I4I4I4', args[1], p)
    local a = active(r, k)
    local same = a and i < a.n and state_at(a, i) == state and word_at(a, a.pend, i) == pending
      and word_at(a, a.cons, i) == consumers
    if same then
      put_word(a, a.pend, i, blocked)
      put_word(a, a.cons, i, needed)
      if needed == 0 then free_span(r, a, i, 1, ALL, freed) end
    end
    out[#out + 1] = same and '\1' or '\0'
  end
  return concat(out)
end)

-- recount: 1 found: tasks u64, finished u64, failed u64; right: the same. Answers 0 done | 3 others
-- stand there by now.
define('recount', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local tasks, finished, failed, p = take('>I8I8I8', args[1])
  if r.tasks ~= tasks or r.finished ~= finished or r.failed ~= failed then return '\3' end
  check_ending(r)
  r.tasks, r.finished, r.failed = take('>I8I8I8', args[1], p)
  end_if_finished(r)
  save_run(r)
  return '\0'
end)
