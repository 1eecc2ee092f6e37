//! The program `hobnob`: the command line of the library, and nothing that an embedder could not write.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hobnob::cli::main()
}
