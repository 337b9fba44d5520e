//! drupe: a micro-VM monitor.

mod bench;
mod cgroup;
mod cli;
mod commands;
mod confinement;
mod exit;
mod home;
mod initramfs;
mod kernels;
mod logging;
mod output;
mod sandbox;
mod terminal;

use std::process::ExitCode;

use cli::Parsed;

fn main() -> ExitCode {
    // Before there are threads.
    vmm::one_heap();
    let mut args = std::env::args_os().skip(1);
    if args
        .next()
        .is_some_and(|word| word == sandbox::monitor::COMMAND)
    {
        let id = args.next().unwrap_or_default();
        logging::start(
            args.next()
                .is_some_and(|word| word == sandbox::monitor::VERBOSE),
        );
        return sandbox::monitor::main(&id.to_string_lossy());
    }
    let word = std::env::args_os().nth(1).unwrap_or_default();
    if word == commands::doctor::confinement::COMMAND {
        logging::start(false);
        return commands::doctor::confinement::main();
    }
    let (verbose, result) = match cli::parse(std::env::args_os()) {
        Ok(Parsed::Run(cli)) => {
            logging::start(cli.verbose);
            (cli.verbose, commands::run(cli.command))
        }
        Ok(Parsed::Print(text)) => (false, commands::print(&text)),
        Err(error) => (false, Err(commands::misused(error, std::env::args_os()))),
    };
    let exit = result.unwrap_or_else(|failure| {
        output::print_error(&*failure.error, verbose || failure.explain);
        failure.exit
    });
    exit.into()
}
