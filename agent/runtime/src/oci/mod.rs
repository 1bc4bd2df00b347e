//! A runtime of the Open Container Initiative, with runc's command line: podman, containerd and others run containers
//! through it as they do through runc.
//!
//! It is the same plan, init and control groups that the engine's containers have; what is its own are records below
//! `--root`, hooks, and a process that waits between `create` and `start`. One thread, no monitor: whoever calls it keeps
//! the streams and hears of the end.

mod arguments;
mod capabilities;
mod console;
mod create;
mod describe;
#[cfg(target_arch = "x86_64")]
mod entry;
mod error;
mod events;
mod exec;
mod foreground;
mod group;
mod hooks;
mod journal;
mod lifecycle;
mod listener;
mod listing;
mod protection;
mod record;
mod resources;
mod systemd;

use std::cell::Cell;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use arguments::{Arguments, Flags};
use create::Mode;
use error::{OciError, Result};
use hooks::{Place, Point};
use journal::{Journal, Level};
use record::Record;

pub use protection::PROTECTED_SUBCOMMAND;

/// The name of the subcommand that runs [`oci_main`].
pub const OCI_SUBCOMMAND: &str = "oci";

/// runc's exit code of every failure but one.
const CODE_FAILED: i32 = 1;
/// runc's exit code of an `exec` that did not come to run its program.
const CODE_EXEC_FAILED: i32 = 255;

/// What a command works with.
struct Context {
    root: PathBuf,
    journal: Journal,
    systemd_cgroup: bool,
    /// Keeps the place that this process runs from, until there is time to give it up: that waits for all processors.
    place: Cell<Option<OwnedFd>>,
}

impl Context {
    fn new(global: &Flags, place: Option<OwnedFd>) -> Result<Context> {
        match global.value("rootless") {
            None | Some("auto" | "false" | "") => {}
            Some(_) => {
                return Err(OciError::Unsupported {
                    what: "--rootless",
                    instead: "run it as root; containers get users of their own by linux.uidMappings",
                });
            }
        }
        if !rustix::process::geteuid().is_root() {
            return Err(OciError::Unsupported {
                what: "running without root",
                instead: "run it as root; containers get users of their own by linux.uidMappings",
            });
        }
        let root = global.value("root").unwrap_or(record::ROOT_DEFAULT);
        let root = std::path::absolute(root).map_err(|error| OciError::io("find --root", error))?;
        Ok(Context {
            root,
            journal: Journal::new(global)?,
            systemd_cgroup: global.is_set("systemd-cgroup"),
            place: Cell::new(place),
        })
    }

    fn warn_of_capabilities(&self, unknown: &[String]) {
        if !unknown.is_empty() {
            let names = unknown.join(" ");
            let warning = format!("ignoring unknown or unavailable capabilities: [{names}]");
            self.journal.write(Level::Warning, &warning);
        }
    }

    /// Runs hooks whose failure is only worth a warning.
    fn run_all(&self, point: Point, record: &Record, status: &str) {
        let state = state_json(record, status);
        let hooks = record.spec.hooks().as_ref();
        hooks::run_all(point, hooks, &state, Place::Host(&record.bundle), |warning| {
            self.journal.write(Level::Warning, &warning);
        });
    }
}

/// Runs a command line of the OCI runtime: everything after `oci`.
///
/// Call it before the process has other threads.
pub fn oci_main(arguments: &[OsString]) -> ExitCode {
    begin(arguments, None)
}

/// As [`oci_main`], after [`PROTECTED_SUBCOMMAND`].
pub fn oci_protected_main(arguments: &[OsString]) -> ExitCode {
    match arguments {
        [place, arguments @ ..] => begin(arguments, protection::take_over(place)),
        [] => begin(arguments, None),
    }
}

fn begin(arguments: &[OsString], place: Option<OwnedFd>) -> ExitCode {
    let code = match arguments::parse(arguments) {
        Ok(parsed) => run(arguments, &parsed, place),
        Err(error) => {
            Journal::default().write(Level::Error, &crate::error::chain(&error));
            CODE_FAILED
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn run(arguments: &[OsString], parsed: &Arguments, place: Option<OwnedFd>) -> i32 {
    let Some(command) = parsed.command else {
        return describe::version_or_help(&parsed.global);
    };
    let context = match Context::new(&parsed.global, place) {
        Ok(context) => context,
        Err(error) => {
            let journal = Journal::new(&parsed.global).unwrap_or_default();
            journal.write(Level::Error, &crate::error::chain(&error));
            return CODE_FAILED;
        }
    };
    context.journal.write(Level::Debug, command);
    match dispatch(&context, command, arguments, parsed) {
        Ok(code) => code,
        Err(error) => {
            let message = crate::error::chain(&error);
            if command == "exec" {
                context
                    .journal
                    .write(Level::Error, &format!("exec failed: {message}"));
                return CODE_EXEC_FAILED;
            }
            context.journal.write(Level::Error, &message);
            CODE_FAILED
        }
    }
}

fn dispatch(context: &Context, command: &str, arguments: &[OsString], parsed: &Arguments) -> Result<i32> {
    let Arguments { flags, operands, .. } = parsed;
    let id = operands.first().map_or("", String::as_str);
    match command {
        "create" | "run" | "exec" | "start" => protection::ensure(arguments)?,
        _ => {}
    }
    match command {
        "create" => return create::create(context, flags, id, Mode::Create),
        "run" if flags.is_set("detach") => return create::create(context, flags, id, Mode::Detach),
        "run" => {
            let keep = flags.is_set("keep");
            return create::create(context, flags, id, Mode::Foreground { keep });
        }
        "exec" => return exec::exec(context, flags, operands),
        "start" => lifecycle::start(context, id)?,
        "state" => println!("{}", lifecycle::state(context, id)?),
        "kill" => lifecycle::kill(context, flags, operands)?,
        "delete" => lifecycle::delete(context, flags, id)?,
        "list" => listing::list(context, flags)?,
        "ps" => listing::processes(context, flags, operands)?,
        "pause" => resources::pause(context, id)?,
        "resume" => resources::resume(context, id)?,
        "update" => resources::update(context, flags, id)?,
        "events" => events::events(context, flags, id)?,
        "features" => describe::features(),
        "spec" => describe::spec(flags)?,
        other => return Err(OciError::usage(format!("unknown command {other:?}"))),
    }
    Ok(0)
}

/// The state of a container as the specification has it, with what runc adds.
fn state_json(record: &Record, status: &str) -> String {
    let pid = if status == "stopped" { 0 } else { record.pid };
    let mut state = serde_json::json!({
        "ociVersion": record.spec.version(),
        "id": record.id,
        "status": status,
        "pid": pid,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": "",
    });
    if let Some(annotations) = record.spec.annotations() {
        state["annotations"] = serde_json::json!(annotations);
    }
    state.to_string()
}
