//! Memory for large webhook bodies, given out as their bytes arrive: what a sender declares costs nothing, and who sends little
//! holds little. When it is short, bodies that came slowly make room, the slowest first; nobody needs a secret to send one, so
//! nothing else tells a sender from somebody who only wants to be in the way.
//!
//! Must not: know what a body means.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A body makes room for others if it comes more slowly than this, in bytes a second, over the last one to two [`WINDOW`]s.
const SLUGGISH: f64 = (1 << 20) as f64;
const WINDOW: Duration = Duration::from_secs(1);
/// Bodies that wait hold what they have. After this time they make room, too: the shortest patience of a forge (Gitea's) is 5 s.
const HELD_UP: Duration = Duration::from_secs(3);
/// How often one that waits looks again for bodies that have become slow.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What all large bodies share.
pub struct Room {
    bytes: usize,
    state: Mutex<State>,
    /// Somebody left.
    left: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    used: usize,
    /// By arrival.
    bodies: BTreeMap<u64, Body>,
}

struct Body {
    received: usize,
    charged: usize,
    /// When so much of it had been received: two windows' beginnings.
    before: (Instant, usize),
    since: (Instant, usize),
    /// Not reading, until others leave.
    waits: Option<Instant>,
    /// It is whole: it ends by itself soon.
    whole: bool,
    makes_room: CancellationToken,
}

impl Body {
    fn has(&mut self, received: usize, now: Instant) {
        self.received = received;
        if now.saturating_duration_since(self.since.0) >= WINDOW {
            self.before = self.since;
            self.since = (now, received);
        }
    }
    /// If it may be asked to make room: in which order, the smallest first. Those that come slowly go before those that wait.
    fn in_the_way(&mut self, now: Instant) -> Option<(u8, f64)> {
        if self.whole || self.makes_room.is_cancelled() {
            return None;
        }
        if let Some(since) = self.waits {
            let waited = now.saturating_duration_since(since);
            return (waited >= HELD_UP).then(|| (1, -waited.as_secs_f64()));
        }
        self.has(self.received, now);
        let time = now.saturating_duration_since(self.before.0);
        let rate = (self.received - self.before.1) as f64 / time.as_secs_f64();
        (time >= WINDOW && rate < SLUGGISH).then_some((0, rate))
    }
}

impl State {
    /// Lets this body grow to `wanted` bytes, or asks slow ones to go.
    fn try_grow(&mut self, room: usize, id: u64, received: usize, wanted: usize, now: Instant) -> bool {
        // The oldest may overdraw, so that bodies which all wait for each other end one after the other.
        let oldest = self.bodies.keys().next() == Some(&id);
        let Some(body) = self.bodies.get_mut(&id) else { return true };
        body.has(received, now);
        let missing = wanted.saturating_sub(body.charged);
        if oldest || self.used + missing <= room {
            body.charged += missing;
            self.used += missing;
            if body.waits.take().is_some() {
                (body.before, body.since) = ((now, received), (now, received));
            }
            return true;
        }
        body.waits.get_or_insert(now);
        let leaving = |body: &Body| body.makes_room.is_cancelled().then_some(body.charged);
        let mut expected = self.used - self.bodies.values().filter_map(leaving).sum::<usize>();
        while expected + missing > room {
            let others = self.bodies.iter_mut().filter(|(n, _)| **n != id);
            let next = others
                .filter_map(|(_, body)| Some((body.in_the_way(now)?, body)))
                .min_by(|((a, x), _), ((b, y), _)| a.cmp(b).then(x.total_cmp(y)));
            let Some((_, slowest)) = next else { break };
            slowest.makes_room.cancel();
            expected -= slowest.charged;
        }
        false
    }
}

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self { bytes, state: Mutex::default(), left: Notify::new() }
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A place for a body that began to arrive then. It holds nothing yet.
    pub fn enter(self: &Arc<Self>, began: Instant) -> Share {
        let makes_room = CancellationToken::new();
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let body = Body {
            received: 0,
            charged: 0,
            before: (began, 0),
            since: (began, 0),
            waits: None,
            whole: false,
            makes_room: makes_room.clone(),
        };
        state.bodies.insert(id, body);
        drop(state);
        Share { room: Arc::clone(self), id, makes_room }
    }
}

/// One body's place; dropping it gives all back.
pub struct Share {
    room: Arc<Room>,
    id: u64,
    makes_room: CancellationToken,
}

impl Share {
    /// Waits until this body, of which so many bytes are there, may hold so many in all.
    pub async fn grow(&self, received: usize, bytes: usize) {
        loop {
            let mut left = std::pin::pin!(self.room.left.notified());
            left.as_mut().enable();
            if self.room.state().try_grow(self.room.bytes, self.id, received, bytes, Instant::now()) {
                return;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, left).await;
        }
    }
    /// More arrived, within what it may hold.
    pub fn received(&self, bytes: usize) {
        if let Some(body) = self.room.state().bodies.get_mut(&self.id) {
            body.has(bytes, Instant::now());
        }
    }
    /// All of it is there: from now on it makes room for nobody.
    pub fn whole(&self) {
        if let Some(body) = self.room.state().bodies.get_mut(&self.id) {
            body.whole = true;
        }
    }
    /// Ready when the body came too slowly and others need the room.
    pub async fn makes_room(&self) {
        self.makes_room.cancelled().await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.room.state();
        if let Some(body) = state.bodies.remove(&self.id) {
            state.used -= body.charged;
        }
        drop(state);
        self.room.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Time is told, not taken.
    struct Told {
        room: Arc<Room>,
        began: Instant,
    }

    impl Told {
        fn new() -> Self {
            Self { room: Arc::new(Room::new(4 * MIB)), began: Instant::now() }
        }
        fn enter(&self, at_ms: u64) -> Share {
            self.room.enter(self.began + Duration::from_millis(at_ms))
        }
        fn grows(&self, share: &Share, received: usize, wanted: usize, at_ms: u64) -> bool {
            let now = self.began + Duration::from_millis(at_ms);
            self.room.state().try_grow(4 * MIB, share.id, received, wanted, now)
        }
    }

    #[tokio::test]
    async fn the_slowest_makes_room_and_fast_ones_are_waited_for() {
        let told = Told::new();
        let [first, slow, slower] = [0; 3].map(|_| told.enter(0));
        assert!(told.grows(&first, MIB, MIB, 0));
        assert!(told.grows(&slow, 600_000, MIB, 0));
        assert!(told.grows(&slower, 70_000, MIB, 0));
        let new = told.enter(900);
        // Within the first second nobody is slow.
        assert!(!told.grows(&new, MIB, 2 * MIB, 900));
        assert!(!slower.makes_room.is_cancelled());
        assert!(told.grows(&first, MIB, MIB, 1_000), "the oldest goes on");
        told.room.state().bodies.get_mut(&first.id).unwrap().received = 4 * MIB;
        assert!(!told.grows(&new, MIB, 2 * MIB, 1_500));
        assert!(slower.makes_room.is_cancelled(), "the slowest");
        assert!(
            !slow.makes_room.is_cancelled() && !first.makes_room.is_cancelled(),
            "no more than is needed"
        );
        let begins = new.room.left.notified();
        drop(slower);
        begins.await;
        assert!(told.grows(&new, MIB, 2 * MIB, 9_000));
        // The time that it waited is not held against it.
        let at = |ms| told.began + Duration::from_millis(ms);
        assert_eq!(told.room.state().bodies.get_mut(&new.id).unwrap().in_the_way(at(9_900)), None);
        // One that is whole makes room for nobody, however slowly it came.
        slow.whole();
        first.whole();
        new.whole();
        assert!(!told.grows(&told.enter(9_950), MIB, MIB, 20_000));
        assert!([&slow, &first, &new].iter().all(|share| !share.makes_room.is_cancelled()));
    }

    /// Who sends much at once and then nothing is as slow as others, soon.
    #[test]
    fn a_fast_beginning_does_not_count_for_long() {
        let told = Told::new();
        let burst = told.enter(0);
        assert!(told.grows(&burst, 16 * MIB, 16 * MIB, 100));
        let new = told.enter(5_000);
        assert!(!told.grows(&new, 1000, MIB, 5_000));
        assert!(!burst.makes_room.is_cancelled());
        assert!(!told.grows(&new, 1000, MIB, 6_000));
        assert!(burst.makes_room.is_cancelled());
    }

    /// Those that wait hold room, and may be many: none of them keeps others waiting for long.
    #[test]
    fn those_that_wait_make_room_in_the_end() {
        let told = Told::new();
        let all = [0; 4].map(|_| told.enter(0));
        for share in &all {
            assert!(told.grows(share, MIB, MIB, 0));
        }
        for share in &all[1..] {
            assert!(!told.grows(share, MIB, 2 * MIB, 100));
        }
        all[0].whole();
        let new = told.enter(3_000);
        assert!(!told.grows(&new, 1000, MIB, 3_000));
        assert!(all.iter().all(|share| !share.makes_room.is_cancelled()));
        assert!(!told.grows(&new, 1000, MIB, 3_200));
        assert_eq!(all.iter().filter(|share| share.makes_room.is_cancelled()).count(), 1);
    }

    #[test]
    fn of_bodies_that_wait_for_each_other_the_oldest_goes_on() {
        let told = Told::new();
        let shares = [0; 4].map(|_| told.enter(0));
        for share in &shares {
            assert!(told.grows(share, MIB, MIB, 0));
        }
        for share in &shares[1..] {
            assert!(!told.grows(share, MIB, 2 * MIB, 0));
        }
        for share in shares {
            assert!(told.grows(&share, MIB, 3 * MIB, 60_000));
        }
        assert_eq!(told.room.state().used, 0);
    }
}
