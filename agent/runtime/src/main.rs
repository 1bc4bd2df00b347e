//! The runtime as a program of its own: the launcher and the OCI runtime (for tests), and `run` for one OCI bundle.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The exit code of wrong usage, and of containers that cannot be started for other reasons than their command.
const CODE_USAGE: u8 = 125;

/// The name of a link to this binary that is the OCI runtime.
const OCI_PROGRAM: &str = "muster-oci";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = PathBuf::from(arguments.next().unwrap_or_default());
    if program.file_name().is_some_and(|name| name == OCI_PROGRAM) {
        return muster_runtime::oci_main(&arguments.collect::<Vec<OsString>>());
    }
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    match (command.to_str(), rest.as_slice()) {
        (Some(muster_runtime::LAUNCHER_SUBCOMMAND), _) => muster_runtime::launcher_main(&rest),
        (Some(muster_runtime::OCI_SUBCOMMAND), _) => muster_runtime::oci_main(&rest),
        (Some(muster_runtime::PROTECTED_SUBCOMMAND), _) => muster_runtime::oci_protected_main(&rest),
        (Some("run"), [flag, bundle, id]) if flag == "--bundle" => run(PathBuf::from(bundle), id),
        (Some("measure"), [flag, bundle, count]) if flag == "--bundle" => {
            measure(PathBuf::from(bundle), count)
        }
        _ => {
            eprintln!("usage: muster-runtime run --bundle DIRECTORY ID");
            eprintln!(
                "       muster-runtime measure --bundle DIRECTORY COUNT   (in this process, one after the other)"
            );
            ExitCode::from(CODE_USAGE)
        }
    }
}

fn run(bundle: PathBuf, id: &OsString) -> ExitCode {
    match muster_runtime::run_bundle(&bundle, &id.to_string_lossy()) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("muster-runtime: {}", muster_runtime::describe(&error));
            ExitCode::from(match error {
                muster_runtime::RuntimeError::Start { code, .. } => u8::try_from(code).unwrap_or(CODE_USAGE),
                _ => CODE_USAGE,
            })
        }
    }
}

/// Runs a bundle again and again in this process and prints how long each took, from request to everything removed.
fn measure(bundle: PathBuf, count: &OsString) -> ExitCode {
    let Some(count) = count
        .to_str()
        .and_then(|count| count.parse::<usize>().ok())
        .filter(|count| *count > 0)
    else {
        eprintln!("muster-runtime: the count is a number above 0");
        return ExitCode::from(CODE_USAGE);
    };
    let mut times_ms = Vec::with_capacity(count);
    for number in 0..count {
        let started = Instant::now();
        let result = muster_runtime::run_bundle(&bundle, &format!("measure-{}-{number}", std::process::id()));
        times_ms.push(started.elapsed().as_secs_f64() * 1e3);
        if let Err(error) = result {
            eprintln!("muster-runtime: {}", muster_runtime::describe(&error));
            return ExitCode::FAILURE;
        }
    }
    times_ms.sort_by(f64::total_cmp);
    let percentile = |percent: usize| times_ms[(count - 1) * percent / 100];
    println!(
        "n={count} min={:.2} p50={:.2} p95={:.2} ms",
        percentile(0),
        percentile(50),
        percentile(95)
    );
    ExitCode::SUCCESS
}
