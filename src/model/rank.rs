//! One pod of an attempt: "(attempt, rank)" is whom the daemon listens to.

use std::fmt;

use super::AttemptUid;

/// The rank that leads: it alone keeps artifacts, checkpoints and caches, and what it says is the step's result.
pub const LEADER: u32 = 0;

/// One of an attempt's pods, numbered from 0. An attempt of one pod has the leader alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptRank {
    pub uid: AttemptUid,
    pub rank: u32,
}

impl AttemptRank {
    pub fn new(uid: &AttemptUid, rank: u32) -> Self {
        Self { uid: uid.clone(), rank }
    }

    pub fn leads(&self) -> bool {
        self.rank == LEADER
    }

    /// Reads what [`fmt::Display`] writes: `<uid>` or `<uid>.<rank>`.
    pub fn from_text(text: &str) -> Self {
        match text.rsplit_once('.').map(|(uid, rank)| (uid, rank.parse())) {
            Some((uid, Ok(rank))) => Self { uid: AttemptUid::from_text(uid), rank },
            _ => Self { uid: AttemptUid::from_text(text), rank: LEADER },
        }
    }
}

/// Its leader.
impl From<&AttemptUid> for AttemptRank {
    fn from(uid: &AttemptUid) -> Self {
        Self::new(uid, LEADER)
    }
}

impl From<&Self> for AttemptRank {
    fn from(of: &Self) -> Self {
        of.clone()
    }
}

impl fmt::Display for AttemptRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.leads() { write!(f, "{}", self.uid) } else { write!(f, "{}.{}", self.uid, self.rank) }
    }
}

/// How long an attempt held its places outside, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// From the first pod's binding to the last one's end.
    pub from_ms: i64,
    pub to_ms: i64,
    /// Each pod's own time, added up.
    pub pods_ms: i64,
    /// How busy its GPUs were, 0 to 1, where a monitor knew.
    pub gpu_busy: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_read_as_it_is_written() {
        let uid = AttemptUid::from_text("0190b2c4-7a10-7000-8000-000000000001");
        for (rank, text) in [(0, uid.to_string()), (1, format!("{uid}.1")), (511, format!("{uid}.511"))] {
            let of = AttemptRank::new(&uid, rank);
            assert_eq!(of.to_string(), text);
            assert_eq!(AttemptRank::from_text(&text), of);
        }
        assert_eq!(AttemptRank::from_text("x.y"), AttemptRank::from(&AttemptUid::from_text("x.y")));
    }
}
