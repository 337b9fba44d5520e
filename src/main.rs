//! drupe: a micro-VM monitor.

mod cli;
mod commands;
mod exit;
mod kernels;
mod logging;
mod output;
mod terminal;

use std::process::ExitCode;

use cli::Parsed;

fn main() -> ExitCode {
    let (verbose, result) = match cli::parse(std::env::args_os()) {
        Ok(Parsed::Run(cli)) => {
            logging::start(cli.verbose);
            (cli.verbose, commands::run(cli.command))
        }
        Ok(Parsed::Print(text)) => (false, commands::print(&text)),
        Err(error) => (false, Err(error.into())),
    };
    let exit = result.unwrap_or_else(|failure| {
        output::print_error(&*failure.error, verbose || failure.explain);
        failure.exit
    });
    exit.into()
}
