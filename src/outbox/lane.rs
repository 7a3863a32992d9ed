//! How fast one credential may write, and until when it must rest. In memory: after a restart the forge says it again.

use crate::clock::Millis;
use crate::store::outbox::OutboxKind;

/// Failures in a row that count as "the forge is down".
const DOWN: u32 = 5;
/// Longest rest when the forge is down.
const MAX_REST_MS: Millis = 60_000;

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    capacity: f64,
    per_ms: f64,
    level: f64,
    at_ms: Millis,
}

impl Bucket {
    fn new(capacity: f64, refill_ms: Millis) -> Self {
        Self { capacity, per_ms: 1.0 / refill_ms as f64, level: capacity, at_ms: 0 }
    }
    fn refill(&mut self, now: Millis) {
        let passed = (now - self.at_ms).max(0) as f64;
        self.level = (self.level + passed * self.per_ms).min(self.capacity);
        self.at_ms = now;
    }
    /// When the next token is there; now or earlier means at once.
    fn ready_ms(&mut self, now: Millis) -> Millis {
        self.refill(now);
        if self.level >= 1.0 { now } else { now + ((1.0 - self.level) / self.per_ms).ceil() as Millis }
    }
}

/// One credential's limits. GitHub asks for a second between writes, and for at most 80 new contents a minute and 500 an hour:
/// 10 + 1 a second stays below the first two, 40 + 1 each 8 s (comments only) below the third.
#[derive(Debug)]
pub struct Lane {
    writes: Bucket,
    comments: Bucket,
    rest_until_ms: Millis,
    failures: u32,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            writes: Bucket::new(10.0, 1_000),
            comments: Bucket::new(40.0, 8_000),
            rest_until_ms: 0,
            failures: 0,
        }
    }
}

impl Lane {
    /// None: nothing rests.
    pub fn resting(&self, now: Millis) -> Option<Millis> {
        (self.rest_until_ms > now).then_some(self.rest_until_ms)
    }
    pub fn rest(&mut self, until_ms: Millis) {
        self.rest_until_ms = self.rest_until_ms.max(until_ms);
    }
    /// When a write of this kind is allowed; now means at once.
    pub fn ready_ms(&mut self, kind: OutboxKind, now: Millis) -> Millis {
        let ready = self.writes.ready_ms(now);
        if kind == OutboxKind::Comment { ready.max(self.comments.ready_ms(now)) } else { ready }
    }
    /// Takes what one write of this kind costs. One that cannot wait (the second half of one that began) makes the next ones wait longer.
    pub fn spend(&mut self, kind: OutboxKind) {
        self.writes.level -= 1.0;
        if kind == OutboxKind::Comment {
            self.comments.level -= 1.0;
        }
    }
    pub fn answered(&mut self) {
        self.failures = 0;
    }
    /// No useful answer. After several in a row every row would only fail: the whole credential rests for a while.
    pub fn failed(&mut self, now: Millis) {
        self.failures += 1;
        if self.failures >= DOWN {
            let doublings = (self.failures - DOWN).min(10);
            self.rest(now + (1_000i64 << doublings).min(MAX_REST_MS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_at_most_one_a_second_after_a_burst_and_comments_fewer_than_the_hourly_limit() {
        for (kind, minutes) in [(OutboxKind::Status, 10), (OutboxKind::Comment, 120)] {
            let mut lane = Lane::default();
            let (mut now, mut at) = (1_000_000, Vec::new());
            while now < 1_000_000 + minutes * 60_000 {
                let ready = lane.ready_ms(kind, now);
                if ready > now {
                    now = ready;
                } else {
                    lane.spend(kind);
                    at.push(now);
                }
            }
            let most = |window: i64| {
                at.iter().map(|t| at.iter().filter(|u| (*t..t + window).contains(*u)).count()).max()
            };
            let (minute, hour) = (most(60_000).unwrap(), most(3_600_000).unwrap());
            assert!(minute <= 80, "{kind}: {minute} a minute");
            assert!(kind == OutboxKind::Status || hour <= 500, "{kind}: {hour} an hour");
            println!("FIGURE outbox_{kind}_per_minute={minute} per_hour={hour}");
        }
    }

    #[test]
    fn a_forge_that_is_down_is_left_alone_for_longer_each_time() {
        let mut lane = Lane::default();
        for _ in 0..4 {
            lane.failed(0);
            assert_eq!(lane.resting(0), None);
        }
        lane.failed(0);
        assert_eq!(lane.resting(0), Some(1_000));
        for _ in 0..20 {
            lane.failed(0);
        }
        assert_eq!(lane.resting(0), Some(60_000));
        lane.answered();
        lane.failed(100_000);
        assert_eq!(lane.resting(100_000), None);
    }
}
