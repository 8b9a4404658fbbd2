//! The program `eci`: everything it does is in the library.

fn main() -> std::process::ExitCode {
    eci_agent::cli::main()
}
