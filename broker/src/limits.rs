//! Every bound of the system in one place, each with its reason.

use std::time::Duration;

/// Tasks in one segment: indexes fit 16 bits, and an arena (17 bytes a task) stays near 1 MiB.
pub const SEGMENT_TASKS_MAX: usize = crate::id::SEGMENT_TASKS_MAX;
/// Encoded descriptors of one segment: what a client holds in memory while it stages.
pub const SEGMENT_BYTES_MAX: usize = 8 << 20;
/// Tasks in one descriptor chunk: about 10 KiB, read by the one to four workers that run them.
pub const CHUNK_TASKS: usize = 128;
/// Task ids in one parcel: some milliseconds of work at the shortest durations.
pub const PARCEL_TASKS_MAX: usize = 256;
/// Bytes of one parcel: descriptors and small inputs ride along only as a cache.
pub const PARCEL_BYTES_MAX: usize = 64 << 10;
/// Tasks finished by one commit: keeps the function below 2 ms.
pub const COMMIT_TASKS_MAX: usize = 256;
/// Distinct successors touched by one commit, for the same reason.
pub const COMMIT_SUCCESSORS_MAX: usize = 1_000;
/// Consumers of one task before a relay tree is put between: bounds a single task's commit.
pub const FAN_OUT_MAX: usize = 512;
/// Cross-segment edges registered by one call of `activate`.
pub const ACTIVATE_EDGES_MAX: usize = 500;
/// Results up to this size are stored with the commit; larger ones stay with the worker.
pub const INLINE_RESULT_MAX: usize = 4 << 10;
/// Arguments above this size become content-addressed blobs.
pub const INLINE_ARGUMENT_MAX: usize = 64 << 10;
/// One blob: more belongs in a task that loads it.
pub const BLOB_BYTES_MAX: usize = 64 << 20;
/// All blobs of one run.
pub const RUN_BLOB_BYTES_MAX: usize = 256 << 20;
/// One result. Larger values belong in files, of which a task returns the path.
pub const RESULT_BYTES_MAX: u64 = 64 << 30;
/// Times a result may be recomputed after its holders were lost.
pub const RECOMPUTE_MAX: u8 = 15;
/// Tasks that one attempt of a task may submit: one segment.
pub const SPAWN_TASKS_MAX: usize = SEGMENT_TASKS_MAX;
/// A task's name: it is a metric label and part of every descriptor.
pub const TASK_NAME_BYTES_MAX: usize = 128;
/// Message, source chain and backtrace of an error together.
pub const ERROR_BYTES_MAX: usize = 16 << 10;
/// The header of a run: a small string map, not a place for data.
pub const RUN_HEADER_BYTES_MAX: usize = 16 << 10;
/// One frame of the data port's control messages.
pub const HANDOFF_FRAME_BYTES_MAX: usize = 1 << 20;
/// One piece of a result on the data port, so that a small object never waits behind a large one.
pub const HANDOFF_CHUNK_BYTES: usize = 256 << 10;
/// Keys in one request on the data port: a frame of 135 kB.
pub const HANDOFF_KEYS_MAX: usize = 4 << 10;
/// Requests in flight on one connection of the data port.
pub const HANDOFF_REQUESTS_MAX: usize = 8;
/// How many of them may be for more than a chunk, so that a small one always finds a place.
pub const HANDOFF_LARGE_REQUESTS_MAX: usize = 6;
/// Connections that a data port serves at once. Peers beyond them are told to come again.
pub const HANDOFF_CONNECTIONS_MAX: usize = 256;
/// Connections of a data port that have not finished their handshake; one more ends the oldest.
pub const HANDOFF_HANDSHAKES_MAX: usize = 64;
/// Percent of a worker's memory up to which it takes first what has the longest way to go, which
/// keeps more results at a time; half of what is there before it spills.
pub const MEMORY_FILLING_PERCENT: u64 = 30;
/// Percent of a worker's memory from which on the least recently used results go to disk.
pub const MEMORY_SPILL_PERCENT: u64 = 60;
/// For how long at that point nothing is written and no source is started, up to
/// [`MEMORY_HIGH_PERCENT`]: results that are on their way to their last use need not go by way of the
/// disk. A commit, what it releases and its inputs take some milliseconds each.
pub const SPILL_GRACE: Duration = Duration::from_millis(100);
/// Percent of a worker's memory from which on it starts no new sources.
pub const MEMORY_HIGH_PERCENT: u64 = 80;
/// Percent of a worker's memory from which on it runs one task at a time.
pub const MEMORY_CRITICAL_PERCENT: u64 = 90;
/// Results of tasks that used others may exceed a worker's memory by the limit divided by this: their
/// commits free what they used, so a full worker goes on with them, a few at a time.
pub const MEMORY_RESERVE_PART: u64 = 4;
/// How long a result waits for memory while none is freed and nothing can be moved to disk; then its
/// task has failed.
pub const MEMORY_WAIT: Duration = Duration::from_secs(60);
/// The part of a worker's memory that it keeps at most, beside what its results take, for results to
/// come: a system needs longer for new memory than a result for its way.
pub const BUFFERS_KEPT_PART: u64 = 16;
/// And not more than this, however much memory there is.
pub const BUFFERS_KEPT_MAX: usize = 512 << 20;
/// How often what nobody has used since goes back to the system: within twice this time.
pub const BUFFERS_SWEEP: Duration = Duration::from_secs(5);
/// How often it is logged, at the most, that the system refuses files, connections or space on disk.
pub const SHORTAGE_LOG_EVERY: Duration = Duration::from_secs(60);
/// How often a file that has a result is opened again when this process has too many open ones: with
/// the pauses between as long as a peer waits for an answer.
pub const SPILL_READS_MAX: u32 = 120;
/// One result that is copied into the store because no worker is left to hold it.
pub const STORED_COPY_MAX: u64 = 8 << 20;
/// All results that one leaving worker copies into the store, which is sized for small ones.
pub const LEAVING_STORED_MAX: u64 = 64 << 20;
/// Tasks whose results one message asks a holder to relay: a message of 1.6 kB.
pub const RELAY_TASKS_MAX: usize = 256;
/// Messages of this kind that a holder works on; it hears again of those that it passes over.
pub const RELAYS_MAX: usize = 8;
/// All results that one worker relays through the store, which is sized for small ones.
pub const RELAYED_STORED_MAX: u64 = 64 << 20;
/// How often a worker hands a task back because the holder of an input lives and cannot be reached
/// from here, before the input is computed again. With the waits between them this takes 20 s: time
/// for a relay of some GiB, or for another worker to take the task, and as long as two leases, after
/// which the record of a holder that has died is long gone.
pub const HAND_BACKS_MAX: u32 = 24;
/// The waits before such a task is rung for again, the shortest and, doubled each time, the longest.
pub const HAND_BACK_WAIT: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(1));
/// Tasks that were handed back and whose number of times is remembered: about 1 MiB. Beyond that the
/// oldest begin anew.
pub const HAND_BACKS_KNOWN_MAX: usize = 16 << 10;
/// How long a worker asks nothing of a holder that it could not reach, at first and, doubled each
/// time, at the most: all that need results from there would else wait for its time-outs in turn.
pub const LINK_REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Publishes waiting for the broker's confirm, for one process.
pub const UNCONFIRMED_MAX: usize = 512;
/// One message: a parcel and its envelope.
pub const MESSAGE_BYTES_MAX: usize = PARCEL_BYTES_MAX + (4 << 10);
/// Properties of a message, as AMQP calls what stands before its body: ours are those of a dead
/// letter, with a reason of 224 bytes. Arrays in them may be nested every 5 bytes, and the client
/// library reads them by calling itself. In a build without optimisation 178 levels used up the 2 MiB
/// of its thread's stack, and 138 did not; this is room for 59.
pub const PROPERTIES_BYTES_MAX: usize = 300;
/// Bytes of a frame of AMQP, where the broker allows more. The client library keeps 64 frames a
/// connection for what arrives and what leaves: 2 MiB, instead of 8 at what a broker offers, and
/// instead of all memory at a broker that sets no limit. The largest message is three frames.
pub const AMQP_FRAME_BYTES: u32 = 32 << 10;
/// Fewer than these the protocol does not allow.
pub const AMQP_FRAME_BYTES_MIN: u32 = 4 << 10;
/// Control messages that wait for one consumer. They are hints: the oldest give way.
pub const CONTROL_BACKLOG_MAX: usize = 1_000;
/// Dead letters of a namespace: enough to see what goes wrong, the oldest give way.
pub const DEAD_LETTERS_MAX: usize = 10_000;

/// A worker's lease in the store, unless it is set up otherwise: how long after its last sign of
/// life its work may be taken.
pub const WORKER_LEASE: Duration = Duration::from_secs(10);
/// The shortest lease: a renewal is a round trip to the store, and a busy machine may put a process
/// off for a hundred milliseconds. A lease that ran out too soon costs repetitions, no more.
pub const WORKER_LEASE_MIN: Duration = Duration::from_millis(500);
/// The longest lease: as long waits what a dead worker had begun.
pub const WORKER_LEASE_MAX: Duration = Duration::from_secs(15);
/// How often a worker renews its lease within its length: four renewals may fail or be late.
pub const WORKER_RENEWALS: u32 = 5;
/// A task that has run this long takes a lease of its own.
pub const TASK_LEASE_AFTER: Duration = Duration::from_millis(250);
/// How long the death of a worker speaks against the tasks of messages that come again. A message
/// may wait that long for a slot.
pub const DEATH_MEMORY: Duration = Duration::from_secs(60 * 60);
/// Processes that a task may bring down, alone in each of them, before it has failed.
pub const CRASHES_MAX: u32 = 3;
/// How long a child may take until it can run tasks: the values that tasks share are made first.
pub const CHILD_START: Duration = Duration::from_secs(60);
/// How long a body in a child may go on after it was cancelled or its time was over: it may want to
/// tidy up.
pub const CHILD_GRACE: Duration = Duration::from_millis(500);
/// How long a child waits for another task before it is ended.
pub const CHILD_IDLE: Duration = Duration::from_secs(60);
/// One frame between a worker and its child, without results, inputs and blobs: arguments, or the
/// graph that a body has submitted with its blobs.
pub const CHILD_FRAME_BYTES_MAX: usize = 2 * RUN_BLOB_BYTES_MAX;
/// Threads that may be stuck in bodies that are out of time, for each slot; one more and the worker
/// goes: they take processor time and memory, and nothing else stops them.
pub const STUCK_PER_SLOT_MAX: usize = 4;
/// A delivery held this long is acknowledged: from then on the lease protects its tasks, so no
/// broker's acknowledgement timeout can hit.
pub const DELIVERY_HOLD_MAX: Duration = Duration::from_secs(20);
/// How long an acknowledgement waits for the confirms of the releases it covers. Not longer: under
/// a broker's memory alarm confirms stop, and only acknowledgements can end the alarm.
pub const ACK_WAIT_MAX: Duration = Duration::from_millis(250);
/// How long a worker that is told to go takes for it: containers are killed after 10 s by default.
pub const DRAIN: Duration = Duration::from_secs(9);
/// How much of that is kept, at most, for what did not finish: giving it back, handing results on.
pub const DRAIN_RESERVE: Duration = Duration::from_secs(2);
/// How long a worker that is told to go at once takes to say so.
pub const DRAIN_AT_ONCE: Duration = Duration::from_secs(1);
/// An open run whose client has shown no life for this long is closed by its policy.
pub const CLIENT_LEASE: Duration = Duration::from_secs(60);
/// How long a finished run's results and state are kept for its client.
pub const RUN_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a connection to a data port may take. Within one network it takes a millisecond.
pub const HANDOFF_CONNECT: Duration = Duration::from_secs(2);
/// How long a handshake on the data port may take: strangers hold a socket no longer.
pub const HANDOFF_HANDSHAKE: Duration = Duration::from_secs(5);
/// A peer that moves no byte for this long while it should is given up.
pub const HANDOFF_STALL: Duration = Duration::from_secs(10);
/// A peer that lives but answers no request for this long is given up: a disk that hangs.
pub const HANDOFF_ANSWER: Duration = Duration::from_secs(120);
/// A connection without requests is closed after this long.
pub const HANDOFF_IDLE: Duration = Duration::from_secs(60);
/// How long nothing is spilled after the disk refused a file: a full disk stays full for a while.
pub const SPILL_PAUSE: Duration = Duration::from_secs(1);
/// How long a request waits for a result to be confirmed. A consumer may hear of a commit from the
/// store before the holder has its answer.
pub const HANDOFF_CONFIRM_WAIT: Duration = Duration::from_secs(5);
/// How long a task waits for a worker that can run it before it fails.
pub const PARK_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Interval of AMQP heartbeats: a silent peer is given up after two. Shorter ones give up peers
/// that are merely busy.
pub const HEARTBEAT_SECONDS: u16 = 10;
/// Messages of one run, from one process, on the first level of a lane and up to the end of the
/// second: what a run that comes later waits behind is a few messages of each run that is larger.
/// All of a run of ten tasks is on the first, the ready tasks of one segment are on the second.
pub const LEVEL_MESSAGES: [u64; 2] = [16, 272];
/// Runs whose messages a process counts for this.
pub const LEVEL_RUNS_MAX: usize = 1_024;
/// Control messages that a consumer takes from the broker ahead of being asked for them.
pub const CONTROL_PREFETCH: u16 = 64;
/// Consumers that are gone and of which one other is told at a time, before it has looked after them.
pub const ABSENT_PREFETCH: u16 = 4;
/// How often a consumer replaces the message that tells of its end: well before the shortest
/// acknowledgement timeout that a broker is likely to have.
pub const PRESENCE_RENEW: Duration = Duration::from_secs(20);
/// The longest that such a message is held when it cannot be replaced, as under an alarm.
pub const PRESENCE_HOLD_MAX: Duration = Duration::from_secs(40);
/// How long the queue of such a message outlives its consumer.
pub const PRESENCE_QUEUE_EXPIRES: Duration = Duration::from_secs(60);
/// Consumers that are gone and of which nobody has been told, because there was nobody: the oldest
/// give way.
pub const ABSENT_MAX: usize = 10_000;
/// How long after a session with the broker was lost and made anew its deliveries are checked against
/// the store: those that were held before come first, and not every broker marks them.
pub const SESSION_DOUBT: Duration = Duration::from_secs(10);
/// How often a worker looks whether its neighbours' records stand, at the least; with a short lease
/// more often. The time after a lease in which a silent worker is noticed.
pub const WATCH_EVERY: Duration = Duration::from_millis(500);
/// An answer of the broker to one request.
pub const BROKER_DEADLINE: Duration = Duration::from_secs(10);
/// Connecting to a server, handshake included: a user waits for it.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a publish waits, first for a connection, then for the broker's confirm.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(10);
/// Connecting to the store, once: a server that lives answers within milliseconds.
pub const STORE_CONNECT: Duration = Duration::from_secs(2);
/// How long one request to the store may take. A false alarm only repeats it.
pub const STORE_ANSWER: Duration = Duration::from_secs(10);
/// How long a request is repeated while the store is away: a restart takes a few seconds.
pub const STORE_DEADLINE: Duration = Duration::from_secs(20);
/// How long a client goes on asking a store that cannot be reached: a restart takes less.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(60);
/// How often a client that waits asks for the store's epoch again: within this time a living
/// client notices that the store has lost its last second.
pub const EPOCH_AGE_MAX: Duration = Duration::from_secs(5);
/// How often a client whose runs are in use looks whether the store has begun another life. Twice and
/// what it takes to stage again are within the 5 s that a lost run may stay unnoticed.
pub const RESTAGE_LOOK: Duration = Duration::from_secs(2);
/// What a client keeps of each run to stage it again, encoded: the newest segments and large
/// arguments. Older ones are on the store's disk, unless that is lost as a whole.
pub const RESTAGE_BYTES_MAX: usize = 16 << 20;
/// Results of its last commits that a worker offers to a store that has forgotten them: with those
/// stored inline some 16 MiB.
pub const OFFERS_MAX: usize = 4_096;
/// For how long a client repeats to a store that has begun another life what it has deleted. The
/// append-only file is written to disk every second; the rest is room for a busy disk.
pub const ROLLBACK_MAX: Duration = Duration::from_secs(10);
/// How often the client of an open run shows that it lives.
pub const CLIENT_RENEW: Duration = Duration::from_secs(15);
/// How long runs that nobody uses any more wait for others, to be deleted in one request: a program
/// that asks for one result after the other has some dozens of them in that time.
pub const REAP_DELAY: Duration = Duration::from_millis(20);
/// Runs deleted by one request. Each takes a server about 40 µs, and no other request is to wait for
/// more than half a millisecond.
pub const REAP_RUNS_MAX: usize = 12;
/// How long dropped handles wait for others, to be unpinned in one request.
pub const UNPIN_DELAY: Duration = Duration::from_millis(100);
/// Tasks unpinned by one request, for the same reason as [`COMMIT_TASKS_MAX`].
pub const UNPIN_TASKS_MAX: usize = 1_000;
/// Tasks inspected by one request: a reply of some 100 KiB when all results are stored inline.
pub const INSPECT_TASKS_MAX: usize = 256;
/// The longest pause of a busy stream between two segments: calls that come meanwhile share one.
pub const COALESCE_MAX: Duration = Duration::from_millis(20);
/// Unfinished tasks of an open run beyond which its client waits before it stages more: what the
/// store has to keep for a client that is faster than the workers.
pub const UNFINISHED_TASKS_MAX: u64 = 4 << 20;
/// How long a client that waits for results goes without news before it looks at the tasks
/// themselves: a net below the events.
pub const REREAD_AFTER: Duration = Duration::from_secs(5);
/// How long the state of an unnamed run outlives its end: its client deletes it earlier, unless it
/// has gone.
pub const UNNAMED_RETENTION: Duration = Duration::from_secs(60 * 60);
