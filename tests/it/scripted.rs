//! An executor whose attempts do what a script says, for tests of what surrounds them. It speaks to the store as an
//! attempt's agent would through the daemon.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use secrecy::ExposeSecret;
use trainyard::clock::SharedClock;
use trainyard::executor::{Executor, ExecutorError, Launch, Observation};
use trainyard::model::{AttemptUid, EndClass};
use trainyard::run::bootstrap_hash;
use trainyard::store::Store;
use trainyard::store::attempts::Finish;

/// What an attempt does once it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Says `start`, works, says `finish`.
    Finish(EndClass),
    /// Says `start`, then nothing; its process lives.
    Hang,
    /// Says `start`; then its process is gone without a word.
    Vanish(EndClass),
    /// The same; but what it said last comes in while its executor is asked, ten seconds after that was asked first.
    LastWords(EndClass),
    /// Is not accepted.
    Refuse(&'static str),
    /// Cannot be started now.
    Busy,
    /// Its executor answers nobody.
    Away,
}

#[derive(Debug)]
struct Process {
    step: String,
    act: Act,
    hash: String,
    started: bool,
    gone: Option<EndClass>,
    gone_seen_ms: Option<i64>,
    removed: bool,
}

type Script = Box<dyn Fn(&str, i64) -> Act + Send + Sync>;

pub struct Scripted {
    store: Store,
    clock: SharedClock,
    script: Script,
    processes: Mutex<BTreeMap<AttemptUid, Process>>,
    tries: Mutex<BTreeMap<String, i64>>,
    /// One line for each process that was really started.
    pub log: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    /// `script` is given the step's name and how often it was started before.
    pub fn new(
        store: Store,
        clock: SharedClock,
        script: impl Fn(&str, i64) -> Act + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            script: Box::new(script),
            processes: Mutex::default(),
            tries: Mutex::default(),
            log: Mutex::default(),
        })
    }

    /// Lets every living process go on as its script says. Returns how many did something.
    pub async fn play(&self) -> usize {
        let due: Vec<(AttemptUid, Act, String, bool)> = {
            let processes = self.processes.lock().unwrap();
            let living =
                processes.iter().filter(|(_, p)| p.gone.is_none() && !(p.started && p.act == Act::Hang));
            living.map(|(uid, p)| (uid.clone(), p.act.clone(), p.hash.clone(), p.started)).collect()
        };
        for (uid, act, hash, started) in &due {
            if !started {
                let now = self.clock.now_ms();
                assert!(self.store.agent_start(uid, hash, "nonce", now).await.unwrap(), "start is refused");
                self.processes.lock().unwrap().get_mut(uid).unwrap().started = true;
                continue;
            }
            let gone = match act {
                Act::Finish(class) => {
                    self.finish(uid, *class).await;
                    *class
                }
                Act::Vanish(class) => *class,
                Act::LastWords(_) => EndClass::NodeLost,
                Act::Hang | Act::Refuse(_) | Act::Busy | Act::Away => continue,
            };
            self.processes.lock().unwrap().get_mut(uid).unwrap().gone = Some(gone);
        }
        due.len()
    }

    async fn finish(&self, uid: &AttemptUid, class: EndClass) {
        let now = self.clock.now_ms();
        self.store.agent_heartbeat(uid, now).await.unwrap();
        let finish = Finish {
            class,
            exit_code: None,
            reason: String::new(),
            outputs: BTreeMap::from([("done".to_owned(), "yes".to_owned())]),
            notes: vec![],
            sources: vec![],
            log_lost_bytes: 0,
            ended_ms: None,
            data: Vec::new(),
            judged: false,
        };
        self.store.agent_finish(uid, finish, now).await.unwrap();
    }

    pub fn started(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// How often a start was asked for in vain.
    pub fn in_vain(&self) -> i64 {
        self.tries.lock().unwrap().values().sum()
    }

    /// Processes that nobody removed.
    pub fn leftovers(&self) -> usize {
        self.processes.lock().unwrap().values().filter(|p| !p.removed).count()
    }
}

#[async_trait]
impl Executor for Scripted {
    async fn submit(&self, launch: &Launch) -> Result<serde_json::Value, ExecutorError> {
        let mut processes = self.processes.lock().unwrap();
        let handle = serde_json::json!({"name": launch.name});
        if processes.contains_key(&launch.uid) {
            return Ok(handle);
        }
        let mut tries = self.tries.lock().unwrap();
        let tried = tries.entry(format!("{} {}", launch.name, launch.spec.name)).or_default();
        let before = self
            .log
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with(&format!("{}#", launch.spec.name)))
            .count();
        let act = (self.script)(&launch.spec.name, before as i64 + *tried);
        match act {
            Act::Refuse(why) => return Err(ExecutorError::Refused(why.into())),
            Act::Busy => {
                *tried += 1;
                return Err(ExecutorError::Transient("busy".into()));
            }
            Act::Away => {
                *tried += 1;
                return Err(ExecutorError::Away("nobody answers".into()));
            }
            _ => {}
        }
        self.log.lock().unwrap().push(format!("{}#{}", launch.spec.name, before + 1));
        let hash = bootstrap_hash(launch.bootstrap.expose_secret());
        let step = launch.spec.name.clone();
        processes.insert(
            launch.uid.clone(),
            Process { step, act, hash, started: false, gone: None, gone_seen_ms: None, removed: false },
        );
        Ok(handle)
    }

    async fn observe(&self, uid: &AttemptUid, _: &serde_json::Value) -> Result<Observation, ExecutorError> {
        let now = self.clock.now_ms();
        let said = self.processes.lock().unwrap().get_mut(uid).and_then(|process| match process.act {
            Act::LastWords(class) if process.gone.is_some() => {
                let since = *process.gone_seen_ms.get_or_insert(now);
                (now >= since + 10_000).then_some(class)
            }
            _ => None,
        });
        if let Some(class) = said {
            self.finish(uid, class).await;
        }
        let processes = self.processes.lock().unwrap();
        Ok(match processes.get(uid) {
            None => Observation::Unknown,
            Some(Process { gone: Some(class), step, .. }) => {
                Observation::Gone { class: *class, exit_code: None, reason: format!("{step} is gone") }
            }
            Some(_) => Observation::Running,
        })
    }

    async fn cancel(&self, uid: &AttemptUid, _: &serde_json::Value, _: i64) -> Result<(), ExecutorError> {
        if let Some(process) = self.processes.lock().unwrap().get_mut(uid) {
            process.gone.get_or_insert(EndClass::Cancelled);
        }
        Ok(())
    }

    async fn remove(&self, _: &str, uid: &AttemptUid, _: &serde_json::Value) -> Result<(), ExecutorError> {
        if let Some(process) = self.processes.lock().unwrap().get_mut(uid) {
            process.removed = true;
            process.gone.get_or_insert(EndClass::Cancelled);
        }
        Ok(())
    }
}
