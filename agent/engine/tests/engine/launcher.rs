//! The launcher as a program of its own, for the tests: the daemon's binary has it as a subcommand.

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(2).collect();
    muster_runtime::launcher_main(&arguments)
}
