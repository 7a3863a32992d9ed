//! Parses arguments and hands over to `cli`.

fn main() -> std::process::ExitCode {
    trainyard::cli::main()
}
