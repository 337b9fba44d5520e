//! `drupe exec`.

use std::path::PathBuf;

use protocol::Process;

use super::{create, end};
use crate::cli::CliError;
use crate::cli::process::{all_capabilities, environment};
use crate::cli::sandbox::ExecArgs;
use crate::commands::Failure;
use crate::exit::Exit;
use crate::sandbox::attach::{Options, window_size};
use crate::sandbox::guest::DEFAULT_SIZE;
use crate::sandbox::spec::Spec;
use crate::sandbox::store::Store;
use crate::sandbox::{events, ops};

/// Runs a further command in a sandbox.
///
/// # Errors
/// When it does not run, or the command cannot be.
pub fn run(args: &ExecArgs) -> Result<Exit, Failure> {
    let (name, command) = args
        .command
        .split_first()
        .ok_or_else(|| CliError::Usage("no sandbox: give its name".to_owned()))?;
    let sandbox = Store::open()?.find(name)?;
    ops::need_running(&sandbox)?;
    let spec = sandbox.spec()?;
    let files = create::env_files(&args.env_file)?;
    let process = process(args, &spec, command, &files)?;
    events::sandbox(
        &sandbox,
        &spec,
        "exec_start",
        &[("command", command.join(" "))],
    );
    let options = Options {
        stdin: args.interactive,
        output: true,
        terminal: args.tty,
        keys: args.detach_keys.clone(),
        signals: true,
    };
    let options = (!args.detach).then_some(&options);
    Ok(end(ops::exec(&sandbox, process, options)?))
}

/// A process beside the sandbox's own, and like it unless it is said.
fn process(
    args: &ExecArgs,
    spec: &Spec,
    command: &[String],
    files: &[String],
) -> Result<Process, Failure> {
    let changes = files.iter().chain(&args.env).cloned();
    let host = |name: &str| std::env::var(name).ok();
    let cwd = match &args.workdir {
        Some(dir) if dir.starts_with('/') => PathBuf::from(dir),
        Some(dir) => {
            let why = format!("--workdir: '{dir}' is not an absolute path");
            return Err(CliError::Usage(why).into());
        }
        None => spec.process.cwd.clone(),
    };
    let user = args.user.clone();
    Ok(Process {
        main: false,
        args: command.to_vec(),
        env: environment(&spec.process.env, changes, host),
        cwd,
        user: user.unwrap_or_else(|| spec.process.user.clone()),
        groups: spec.process.groups.clone(),
        terminal: args.tty.then(|| window_size().unwrap_or(DEFAULT_SIZE)),
        stdin: args.interactive,
        capabilities: match args.privileged {
            true => all_capabilities(),
            false => spec.process.capabilities.clone(),
        },
        no_new_privileges: spec.process.no_new_privileges && !args.privileged,
        rlimits: spec.process.rlimits.clone(),
        init: false,
    })
}
