//! How the programs are linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // The addresses that the loader fills in, packed: 2 MiB less to read at each start, and to keep in memory. Linkers that
        // do not know the word pass over it.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
