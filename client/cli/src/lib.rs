//! The command `bolthole`, as a function from arguments to an exit code and what is written on the
//! way there.
//!
//! | module | what it holds |
//! |---|---|
//! | `cmd` | one file for each verb |
//! | `servers` | how servers are named on the command line and in the environment |
//! | `words` | how things are said to people |
//! | `json` | the little JSON that scripts are given |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on should fail"
    )
)]

mod cmd;
mod json;
mod servers;
mod words;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::{Parser, Subcommand};

/// Looks after a bolthole cluster: task graphs over RabbitMQ and Redis.
#[derive(Debug, Parser)]
#[command(name = "bolthole", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Cancel(cmd::cancel::Cancel),
    Doctor(cmd::doctor::Doctor),
    Du(cmd::du::Du),
    Fsck(cmd::fsck::Fsck),
    Gc(cmd::gc::Gc),
    Ps(cmd::ps::Ps),
    Show(cmd::show::Show),
    Version(cmd::version::Version),
    Workers(cmd::workers::Workers),
}

/// Runs the command whose arguments these are, the first of them its own name. Needs a tokio
/// runtime. The exit code: 0 when all is well, 1 when something is not, 2 when the arguments are
/// not understood.
pub async fn run<A>(args: impl IntoIterator<Item = A>, out: &mut impl Write) -> u8
where
    A: Into<OsString> + Clone,
{
    let written = match Cli::try_parse_from(args) {
        Ok(cli) => match cli.verb {
            Verb::Cancel(cancel) => cancel.run(out).await,
            Verb::Doctor(doctor) => doctor.run(out).await,
            Verb::Du(du) => du.run(out).await,
            Verb::Fsck(fsck) => fsck.run(out).await,
            Verb::Gc(gc) => gc.run(out).await,
            Verb::Ps(ps) => ps.run(out).await,
            Verb::Show(show) => show.run(out).await,
            Verb::Workers(workers) => workers.run(out).await,
            Verb::Version(version) => version.run(out).map(|()| 0),
        },
        Err(usage) => {
            let code = u8::try_from(usage.exit_code()).unwrap_or(2);
            let text = usage.render();
            // Help that was asked for is an answer, everything else a complaint.
            let written =
                if code == 0 { write!(out, "{text}") } else { write!(io::stderr(), "{text}") };
            written.map(|()| code)
        }
    };
    // Whoever closed the pipe has read enough, but has not seen that all is well.
    written.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn help_shows_no_value_of_the_environment() {
        let command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            for argument in verb.get_arguments().filter(|argument| argument.get_env().is_some()) {
                assert!(argument.is_hide_env_values_set(), "{}", argument.get_id());
            }
        }
    }
}
