//! The command `bolthole`: see the library beside it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let code = bolthole_cli::run(std::env::args_os(), &mut std::io::stdout()).await;
    ExitCode::from(code)
}
