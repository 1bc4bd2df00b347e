//! Programs of the tests: the launcher (the daemon's binary has it as a subcommand), and an engine in a process of its
//! own, which can be killed at any point.

mod subject;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let subcommand = arguments.next();
    let arguments: Vec<_> = arguments.collect();
    if subcommand.is_some_and(|subcommand| subcommand == muster_runtime::LAUNCHER_SUBCOMMAND) {
        muster_runtime::launcher_main(&arguments)
    }
    subject::main(&arguments);
}
