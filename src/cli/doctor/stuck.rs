//! What an installation cannot do: work that was given up or keeps failing, and what the forges were not told.

use super::Report;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::outbox::REVIVED_MS;
use crate::store::work::{WorkItem, WorkKind};
use crate::store::{Store, StoreError};

/// Failures in a row that are no accident any more.
const MANY: i64 = 10;
/// Lines of each sort.
const SHOWN: usize = 10;

pub async fn look(report: &mut Report, config: &Config, store: &Store) {
    if let Err(error) = lines(report, config, store).await {
        report.fail("work", error, "see the line about the database");
    }
}

async fn lines(report: &mut Report, config: &Config, store: &Store) -> Result<(), StoreError> {
    let parked = store.parked(SHOWN as i64).await?;
    let failing = store.failing(MANY, SHOWN as i64).await?;
    if parked.is_empty() && failing.is_empty() {
        report.ok("work", "nothing is parked or keeps failing");
    }
    let more = store.count_parked().await? - parked.len() as i64;
    for (item, error) in parked {
        let says = format!("{} {} is parked after {} tries: {error}", item.kind, item.key, item.tries);
        report.warn("work", says, remedy(&item));
    }
    if more > 0 {
        report.warn("work", format!("{more} more are parked"), "mend the ones above first");
    }
    for (item, error) in failing {
        let says = format!(
            "{} {} failed {} times and waited {} times in a row: {error}",
            item.kind, item.key, item.tries, item.waits
        );
        report.warn("work", says, "mend what the error says; it is tried again every 5 minutes");
    }
    let since = SystemClock.now_ms() - REVIVED_MS;
    for forge in config.forge.keys() {
        let about = format!("told to {forge}");
        let untold = store.outbox_untold(forge, since, 100).await?;
        let Some(newest) = untold.first() else {
            report.ok(about, "nothing of the last week is refused");
            continue;
        };
        let count = if untold.len() < 100 { untold.len().to_string() } else { "100 or more".to_owned() };
        report.warn(
            about,
            format!(
                "refused of the last week: {count}; the newest is the {} for {}: {}",
                newest.kind, newest.target, newest.last_error
            ),
            "give the token what it lacks; they are tried once more each hour and at a start",
        );
    }
    Ok(())
}

/// How a parked item is taken up again.
fn remedy(item: &WorkItem) -> String {
    match item.kind {
        WorkKind::Delivery => {
            format!("mend what the error says, then `trainyard deliveries replay {}`", item.key)
        }
        _ => "mend what the error says and restart the daemon: a start tries it once more".to_owned(),
    }
}
