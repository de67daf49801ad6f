//! argv -> config -> runtime -> run -> exit code.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(crieur::cli::main() as u8)
}
