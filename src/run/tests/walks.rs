//! 10,000 random walks of `next` over random graphs.

use super::*;

/// A world in memory that does what store, executor and agents do, at random.
struct World {
    view: RunView,
    now: Millis,
    rng: u64,
    terminal: Option<RunState>,
    behind: bool,
    gone_since: BTreeMap<AttemptUid, (Observation, Millis)>,
    observed: BTreeMap<AttemptUid, Observed>,
    failed: BTreeMap<AttemptUid, String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            view: view("queued", "", ""),
            now: T0,
            rng: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            terminal: None,
            behind: false,
            gone_since: BTreeMap::new(),
            observed: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        let count = 1 + world.roll(6);
        let mut specs: Vec<StepSpec> = Vec::new();
        for index in 0..count {
            let name = char::from(b'a' + index as u8).to_string();
            let needs: Vec<String> =
                specs.iter().map(|s| s.name.clone()).filter(|_| world.roll(3) == 0).collect();
            let mut one = spec(&name, &needs.iter().map(String::as_str).collect::<Vec<_>>());
            one.retry.max = world.roll(3) as u32;
            if world.roll(2) == 0 {
                one.retry.when = vec!["failed".into(), "timed_out".into()];
            }
            one.timeout_ms = 60_000 * (1 + world.roll(100) as i64);
            specs.push(one);
        }
        world.view.steps =
            specs.iter().enumerate().map(|(i, s)| step_row(i, &s.name, StepState::Waiting)).collect();
        world.view.run.plan = plan(specs);
        world.view.run.plan.timeout_ms = 60_000 * (1 + world.roll(300) as i64);
        if world.roll(10) == 0 {
            world.view.run.state = RunState::Held;
        }
        world
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % sides
    }

    /// Another run of its group comes first.
    fn held_up(&self) -> bool {
        self.behind && self.view.run.state == RunState::Queued
    }

    /// What `Store::apply` does, with every promise checked.
    fn apply(&mut self, change: &crate::store::runs::RunChange) {
        assert_eq!(change.epoch, self.view.run.epoch);
        assert!(self.terminal.is_none(), "a run that is over changes no more: {change:?}");
        let moved: std::collections::BTreeSet<_> = change.attempts.iter().map(|m| &m.uid).collect();
        assert_eq!(moved.len(), change.attempts.len(), "an attempt is moved once: {change:?}");
        for m in &change.attempts {
            let row = self.view.attempts.iter_mut().find(|a| a.uid == m.uid).unwrap();
            if m.cancel {
                row.cancel_request = true;
            }
            row.reason.clone_from(&m.reason);
            if m.to != row.state {
                assert!(row.state.next().contains(&m.to), "attempt {} -> {}", row.state, m.to);
                row.state = m.to;
                if m.to == AttemptState::Ended {
                    row.class = Some(m.class.expect("an end has a class"));
                    row.ended_ms = Some(self.now);
                }
            }
        }
        for m in &change.steps {
            let index = self.view.steps.iter().position(|s| s.id == m.step).unwrap();
            let from = self.view.steps[index].state;
            assert!(from.next().contains(&m.to), "step {from} -> {}", m.to);
            if m.to.is_terminal() || m.to == StepState::Ready {
                let open =
                    self.view.attempts.iter().any(|a| a.step_id == m.step && a.state != AttemptState::Ended);
                assert!(!open, "a step moves to {} with an open attempt", m.to);
            }
            self.view.steps[index].state = m.to;
        }
        for m in change.steps.iter().filter(|m| m.to == StepState::Ready) {
            let row = self.view.steps.iter().find(|s| s.id == m.step).unwrap();
            for need in &self.view.run.plan.steps[row.position as usize].needs {
                let state = self.view.steps.iter().find(|s| s.name == need.step).unwrap().state;
                assert!(state.is_good(), "`{}` starts although `{}` is {state}", row.name, need.step);
            }
        }
        if let Some((to, _)) = change.to {
            let from = self.view.run.state;
            assert!(from.next().contains(&to), "run {from} -> {to}");
            self.view.run.state = to;
            if to == RunState::Running {
                self.view.run.started_ms = Some(self.now);
            }
            if to.is_terminal() {
                for s in &self.view.steps {
                    assert!(s.state.is_terminal(), "run {to} with step `{}` {}", s.name, s.state);
                }
                assert!(self.view.attempts.iter().all(|a| a.state == AttemptState::Ended));
                self.terminal = Some(to);
            }
        }
        self.view.run.epoch += 1;
    }

    fn act(&mut self, effect: &Effect) {
        match effect {
            Effect::Submit(uid) => {
                let lost_word = self.roll(20) == 0;
                let row = self.view.attempts.iter_mut().find(|a| a.uid == *uid).unwrap();
                assert_eq!(row.state, AttemptState::Intended);
                if !lost_word {
                    row.state = AttemptState::Submitted;
                    row.submitted_ms = Some(self.now);
                }
            }
            Effect::Remove(uid) => {
                let row = self.view.attempts.iter_mut().find(|a| a.uid == *uid).unwrap();
                assert_eq!(row.state, AttemptState::Ended, "only what ended is removed");
                row.removed_ms = Some(self.now);
            }
            Effect::Cancel(uid) => {
                if self.roll(2) == 0 {
                    let now = self.now;
                    self.gone_since.entry(uid.clone()).or_insert((gone(EndClass::Failed, ""), now));
                }
            }
            Effect::Observe(uid) => {
                let row = self.view.attempts.iter().find(|a| a.uid == *uid).unwrap().clone();
                let now = self.now;
                if self.roll(12) == 0 {
                    let class = EndClass::ALL[self.roll(EndClass::ALL.len() as u64) as usize];
                    let what = if self.roll(4) == 0 { Observation::Unknown } else { gone(class, "") };
                    self.gone_since.entry(uid.clone()).or_insert((what, now));
                }
                let (what, since_ms) = self.gone_since.get(uid).cloned().unwrap_or_else(|| {
                    let what = if row.started_ms.is_some() {
                        Observation::Running
                    } else {
                        Observation::Pending { why: "busy".into(), since_ms: None }
                    };
                    (what, now)
                });
                self.observed.insert(uid.clone(), Observed { what, since_ms });
            }
        }
    }

    /// Something happens by itself: time, a place, an agent's word, a request.
    fn chance(&mut self) {
        self.now += self.roll(20_000) as i64;
        match self.roll(12) {
            0 if self.roll(8) == 0 => {
                let why = ["by ann", "superseded: a newer commit"][self.roll(2) as usize];
                self.view.run.cancel_request.get_or_insert(why.into());
                self.view.run.epoch += 1;
            }
            1 => self.now += self.roll(600_000) as i64,
            2 if self.view.run.state == RunState::Held => {
                self.view.run.state = RunState::Queued;
                self.view.run.epoch += 1;
            }
            7 if self.roll(6) == 0 => self.behind = !self.behind,
            8 if self.roll(6) == 0 && self.terminal.is_none() => {
                // What the look for equal steps does.
                if let Some(step) = self.view.steps.iter_mut().find(|s| s.state == StepState::Ready) {
                    step.state = StepState::Reused;
                    self.view.run.epoch += 1;
                }
            }
            3..=6 => {
                // What `Store::place` does.
                let ready: Vec<usize> = (0..self.view.steps.len())
                    .filter(|i| self.view.steps[*i].state == StepState::Ready)
                    .collect();
                if ready.is_empty() || self.terminal.is_some() || self.held_up() {
                    return;
                }
                let index = ready[self.roll(ready.len() as u64) as usize];
                let step = self.view.steps[index].clone();
                let number = 1 + self.view.attempts.iter().filter(|a| a.step_id == step.id).count() as i64;
                let open =
                    self.view.attempts.iter().any(|a| a.step_id == step.id && a.state != AttemptState::Ended);
                assert!(!open, "a ready step has an open attempt");
                let mut row = attempt_row(&step.name, number, AttemptState::Intended, None);
                row.intended_ms = self.now;
                self.view.attempts.push(row);
                self.view.steps[index].state = StepState::Running;
                self.view.run.epoch += 1;
            }
            _ => {
                let open: Vec<usize> = (0..self.view.attempts.len())
                    .filter(|i| {
                        !matches!(self.view.attempts[*i].state, AttemptState::Ended | AttemptState::Intended)
                    })
                    .collect();
                if open.is_empty() {
                    return;
                }
                let index = open[self.roll(open.len() as u64) as usize];
                let uid = self.view.attempts[index].uid.clone();
                if self.gone_since.contains_key(&uid) && self.roll(3) != 0 {
                    return;
                }
                let (speak, class) =
                    (self.roll(3), EndClass::ALL[self.roll(EndClass::ALL.len() as u64) as usize]);
                let lucky = self.roll(3) != 0;
                let now = self.now;
                let row = &mut self.view.attempts[index];
                match (row.state, speak) {
                    (AttemptState::Submitted | AttemptState::Pending, _) => {
                        row.state = AttemptState::Running;
                        row.started_ms = Some(now);
                    }
                    (_, 0) => row.heartbeat_ms = Some(now),
                    _ => {
                        row.state = AttemptState::Ended;
                        row.class = Some(if lucky { EndClass::Succeeded } else { class });
                        row.ended_ms = Some(now);
                    }
                }
            }
        }
    }

    /// One visit of the reconciler.
    fn visit(&mut self) {
        self.observed.clear();
        self.failed.clear();
        // Now and then the executor cannot be reached for a whole visit.
        let away = self.roll(12) == 0;
        let mut acted = std::collections::BTreeSet::new();
        // What was decided before, if nothing but writing it was done: then the reconciler does not ask again.
        let mut rests: Option<Option<Millis>> = None;
        for round in 0.. {
            assert!(round < 64, "the reconciler does not come to rest");
            let limits = Limits::default();
            let ahead = self.held_up().then(|| RunId::from_text("older"));
            let answering = (!away).then(|| ("local".to_owned(), 0)).into_iter().collect();
            let situation = Situation {
                view: &self.view,
                now: self.now,
                limits: &limits,
                answering: &answering,
                queued: &std::collections::BTreeSet::new(),
                observed: &self.observed,
                failed: &self.failed,
                ahead: ahead.as_ref(),
            };
            let decision = next(&situation);
            if let Some(look_again_ms) = rests {
                assert!(decision.change.is_none(), "{decision:?}");
                assert!(decision.effects.iter().all(|effect| acted.contains(effect)), "{decision:?}");
                assert_eq!(decision.look_again_ms, look_again_ms, "{:?}", self.view);
                return;
            }
            let mut changed = false;
            if let Some(change) = &decision.change {
                self.apply(change);
                rests = Some(decision.look_again_ms);
            }
            for effect in &decision.effects {
                if acted.insert(effect.clone()) {
                    (changed, rests) = (true, None);
                    if away && !matches!(effect, Effect::Remove(_)) {
                        self.failed.insert(effect.attempt().clone(), "no answer".into());
                    } else {
                        self.act(effect);
                    }
                }
            }
            for step in &self.view.steps {
                let open = self
                    .view
                    .attempts
                    .iter()
                    .filter(|a| a.step_id == step.id && a.state != AttemptState::Ended);
                assert!(open.count() <= 1, "one open attempt of a step at most");
            }
            if !changed && rests.is_none() {
                return;
            }
        }
    }
}

#[test]
fn ten_thousand_random_walks_keep_every_promise() {
    let walks: u64 = 10_000;
    let mut ends: BTreeMap<RunState, u64> = BTreeMap::new();
    for seed in 1..=walks {
        let mut world = World::new(seed);
        let mut moves = 0;
        while world.terminal.is_none() {
            world.visit();
            world.chance();
            moves += 1;
            assert!(moves < 20_000, "walk {seed} never ends: {:?}", world.view);
        }
        let end = world.terminal;
        for _ in 0..5 {
            world.chance();
            world.visit();
        }
        assert_eq!(world.terminal, end);
        assert!(
            world.view.attempts.iter().all(|a| a.removed_ms.is_some()),
            "walk {seed} leaves something behind"
        );
        *ends.entry(world.view.run.state).or_default() += 1;
    }
    for state in
        [RunState::Succeeded, RunState::Failed, RunState::Errored, RunState::Cancelled, RunState::Superseded]
    {
        assert!(ends.get(&state).is_some_and(|n| *n > 50), "the walks hardly reach {state}: {ends:?}");
    }
    println!("FIGURE run.next walks={walks} violations=0 ends={ends:?}");
}
