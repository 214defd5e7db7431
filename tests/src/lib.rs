//! What the tests of every crate share.
//!
//! - [`mod@bench`]: what the benchmarks run, on graphs that other systems are measured on too.
//! - [`chaos`]: random faults on real processes: drawn, played, judged, made smaller.
//! - [`check`]: what must hold of a run, held against everything that is known of it.
//! - [`cluster`]: workers and clients as processes, which can be killed, stopped and asked to go.
//! - [`conformance`]: what every implementation of a seam does.
//! - [`dag`]: random graphs.
//! - [`drill`]: one fault at one place of the protocol, and proof that it did no harm.
//! - [`fuzz`]: what any bytes may do to whoever reads them.
//! - [`ledger`]: what bodies of tasks write down.
//! - [`poison`]: tasks that harm the process they run in.
//! - [`proxy`]: a TCP proxy that counts what goes through, and makes the network fail.
//! - [`recovery`]: tasks that write down when and where they run.
//! - [`servers`]: private RabbitMQ and Redis servers that live no longer than the test process.
//! - [`simulation`]: random graphs on simulated clusters with random faults.
//! - [`sockets`]: who has which TCP sockets of this machine.
//! - [`staging`]: a graph in store and queue without a client.
//! - [`trend`]: whether memory, open files or keys grow.
//! - [`workload`]: tasks and graphs with known answers, for those processes.

pub mod bench;
pub mod chaos;
pub mod check;
pub mod cluster;
pub mod conformance;
pub mod dag;
pub mod drill;
pub mod fuzz;
pub mod ledger;
pub mod poison;
pub mod proxy;
pub mod recovery;
pub mod servers;
pub mod simulation;
pub mod sockets;
pub mod staging;
pub mod trend;
pub mod workload;
