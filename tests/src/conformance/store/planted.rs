//! Mistakes in the functions of the store, each a change of their text. The comparison with the
//! specification must notice every one of them.

/// A mistake: what it does, and the text that it replaces, which occurs once.
#[derive(Debug, Clone, Copy)]
pub struct Mistake {
    /// In words.
    pub what: &'static str,
    /// The text of the functions as it is.
    pub right: &'static str,
    /// What stands there instead.
    pub wrong: &'static str,
}

impl Mistake {
    /// The functions with this mistake; `None` when the text does not occur exactly once.
    pub fn plant(&self, functions: &str) -> Option<String> {
        let (before, after) = functions.split_once(self.right)?;
        let once = !after.contains(self.right);
        once.then(|| format!("{before}{}{after}", self.wrong))
    }
}

macro_rules! mistakes {
    ($($what:literal: $right:literal => $wrong:literal;)*) => {
        /// All of them.
        pub const MISTAKES: &[Mistake] =
            &[$(Mistake { what: $what, right: $right, wrong: $wrong }),*];
    };
}

mistakes! {
    // the end
    "unpinned tasks lose the mark of effects":
        "t[i] = t[i] % PINNED" => "t[i] = t[i] % KEPT";
    "outbox entries outlive their run":
        "redis.call('UNLINK', p .. 'l', p .. 'q', p .. 'o')" =>
        "redis.call('UNLINK', p .. 'l', p .. 'q')";
    "purge leaves the failed attempts":
        "'q', 'f'" => "'q'";
    // commit
    "a commit does not compare states and generations":
        "if s ~= sub(expected, q, q + l - 1) then" => "if false then";
    "a forwarded task is finished by who does not consume its target":
        "if not target or not names(args[8], target) then" => "if not target then";
    "a commit may be computed from what was undone":
        "if not active(r, k) then return false end" => "";
    "a repeated commit is not recognised":
        "if again then return '\\0' .. char(r.state)" => "if false then return '\\0' .. char(r.state)";
    "a commit forgets its outbox entry":
        "if list ~= '' then call('HSET', outbox, args[2], list) end" => "";
    "settled outbox entries stay":
        "for field in string.gmatch(args[11], '%S+') do call('HDEL', outbox, field) end" => "";
    "a release counts twice":
        "v = v > c and v - c or 0" => "v = v > 2 * c and v - 2 * c or 0";
    "released successors are written one place too far":
        "b.pend + 4 * first, pack(words(size)" => "b.pend + 4 * first + 4, pack(words(size)";
    "successors in later segments are not released":
        "release_later(r, from, sub(list, at, at + 5), ready, odd)" => "";
    "a task of a segment that is not active is released":
        "if v == 0 and b.active then note_ready" => "if v == 0 then note_ready";
    "a forwarded task is released by its own inputs":
        "if target and target ~= from then return end" => "";
    "a finished task that nobody needs is not freed":
        "if n > 0 then free_span(r, a, first, l, zeros, freed) end" => "";
    "inputs with one consumer each are not freed":
        "free_span(r, b, first, size, ALL, freed)" => "";
    "inputs lose one consumer, however many there were":
        "v = v - (low > c and c or low)" => "v = v - min(low, 1)";
    "a forwarded task makes an event":
        "elseif v >= PINNED and byte(args[5], q + i - 1) % 8 ~= 0 then" => "elseif v >= PINNED then";
    "the result of an effect loses its pin":
        "put_word(a, a.cons, i, v + KEPT)" => "put_word(a, a.cons, i, KEPT)";
    "an attempt without the lease ends an effect":
        "and not (leased == 1 and sub(lease, 17, 24) == nonce) then return nil end" =>
        "and false then return nil end";
    "leases outlive their tasks":
        "if r.attempts == 1 then drop_attempts(r, a, ids) end" => "";
    "a forwarded task counts as finished":
        "r.finished = r.finished + count - going_on" => "r.finished = r.finished + count";
    "failed tasks are not counted":
        "r.failed = r.failed + failed" => "";
    "a run does not fail fast":
        "if r.policy == 0 then end_run(r, FAILED, nil) end" => "";
    "a task forwards to a task of another segment":
        "if #forwarded > 0 or not spawned or k ~= spawned.k or j >= spawned.n then" =>
        "if #forwarded > 0 or not spawned or j >= spawned.n then";
    // rearm, revive
    "a lost result does not block its consumers":
        "put_word(b, b.pend, i, before + 1)" => "put_word(b, b.pend, i, before)";
    "a recomputed task's inputs lose their pins":
        "put_word(input, input.cons, j, word_at(input, input.cons, j) + 1)" =>
        "put_word(input, input.cons, j, word_at(input, input.cons, j) % KEPT + 1)";
    "any locator is reported lost":
        "if redis.call('GETRANGE', a.key, at, at + 7) ~= lost.locator then return 2, 0 end" => "";
    "a recomputed task keeps its generation":
        "redis.call('SETRANGE', a.key, a.st + i, char(16 * (generation + 1)))\n  put_word(a, a.pend, i, pending)\n  redis.call('SETRANGE', a.key, at, NONE)" =>
        "redis.call('SETRANGE', a.key, a.st + i, char(16 * generation))\n  put_word(a, a.pend, i, pending)\n  redis.call('SETRANGE', a.key, at, NONE)";
    "a result that nobody needs is computed again":
        "or v == 0 or v == KEPT then return 4, 0 end" => "then return 4, 0 end";
    "a revived run is not resumed":
        "r.state, r.ended = CLOSED, 0" => "r.ended = 0";
    // lease, retry
    "a lease is anyone's":
        "if current ~= nonce and not (over == 1 and current == old) then" => "if false then";
    "a lease of another generation is given":
        "return b % 8 == 0 and floor(b / 16) == generation" => "return b % 8 == 0";
    "a failed attempt counts twice":
        "or counted + 1 ~= attempt then" => "then";
    "a failed attempt keeps its lease":
        "redis.call('ZADD', r.prefix .. 'q', now + delay, task)\n  redis.call('HDEL', r.prefix .. 'l', task)" =>
        "redis.call('ZADD', r.prefix .. 'q', now + delay, task)";
    // stage, activate
    "columns are written again after some edges":
        "if a.cursor > 0 then return '\\0' end" => "";
    "columns are written again after activation":
        "if a and a.active and a.digest == digest then return '\\0' end" => "";
    "a slice of edges is registered twice":
        "if a.cursor ~= cursor then" => "if false then";
    "an input that is done blocks its consumer":
        "connect(r, from, i, a, to, state_at(from, i) % 8 == 0)" => "connect(r, from, i, a, to, true)";
    "a late edge adds no consumer":
        "put_word(from, from.cons, i, word_at(from, from.cons, i) + 1)" => "";
    "a segment of other content is taken for the same":
        "if a.digest ~= digest then return '\\3' end\n    if a.cursor" => "if a.cursor";
}
