//! Places where a test may end the process, so that "crash at the Nth effect, N = 1, 2, …" can be tried over one
//! whole run (fault F02). Interpreters call [`hit`] before and after each effect; deciding code never does.
//!
//! In builds without debug assertions (releases) `hit` is empty. In the others it does nothing unless
//! `TRAINYARD_CRASH_AT` (abort at that hit, counted from 1), `TRAINYARD_CRASH_ON` (abort at the first hit of that name)
//! or `TRAINYARD_CRASH_TRACE` (append each hit's name to that file) is set.

#[cfg(not(debug_assertions))]
#[inline]
pub fn hit(_name: &'static str) {}

#[cfg(debug_assertions)]
pub fn hit(name: &'static str) {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        crash_at: u64,
        crash_on: Option<String>,
        trace: Option<std::path::PathBuf>,
    }
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    let armed = ARMED.get_or_init(|| {
        let crash_at = std::env::var("TRAINYARD_CRASH_AT").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let crash_on = std::env::var("TRAINYARD_CRASH_ON").ok();
        let trace = std::env::var_os("TRAINYARD_CRASH_TRACE").map(Into::into);
        (crash_at > 0 || crash_on.is_some() || trace.is_some()).then_some(Armed { crash_at, crash_on, trace })
    });
    let Some(armed) = armed else { return };
    let n = HITS.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(path) = &armed.trace {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut f| f.write_all(format!("{n} {name}\n").as_bytes()));
    }
    if n == armed.crash_at || armed.crash_on.as_deref() == Some(name) {
        std::process::abort();
    }
}
