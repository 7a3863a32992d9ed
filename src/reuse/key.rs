//! What a step's result depends on, in named parts, and the first of them in which two steps differ. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::model::StepSpec;
use crate::store::attempts::ArtifactRow;

/// The parts, in the order in which a difference is looked for.
pub const PARTS: [&str; 8] =
    ["commands", "inputs", "image", "parameters", "environment", "artifacts", "outputs", "hardware"];

/// A longer part is kept as its digest.
const LONGEST: usize = 16 << 10;

/// What of a step is not in its `StepSpec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around<'a> {
    /// Lines `<object id> <path>` of the declared inputs.
    pub inputs: String,
    /// Artifacts that the step is given, with the places they are put at.
    pub artifacts: Vec<(String, &'a ArtifactRow)>,
    pub pool: &'a str,
    pub executor: &'a str,
    /// Where the attempt is told to look for metrics: what it reports depends on that as well.
    pub metrics: String,
    /// The data that started the run, as a variable; else nothing.
    pub data: &'a str,
}

/// The parts of a step whose texts are resolved.
///
/// # Errors
/// One sentence on why equality cannot be told.
pub fn parts(step: &StepSpec, around: &Around<'_>) -> Result<BTreeMap<String, String>, String> {
    let image = match (&step.image, around.executor) {
        (_, "local") => "the machine's own".to_owned(),
        (None, _) => "the default".to_owned(),
        (Some(image), _) if image.contains("@sha256:") => image.clone(),
        (Some(image), _) => {
            return Err(format!(
                "its image {image} goes by a tag, which may move: name it as `name@sha256:<digest>`"
            ));
        }
    };
    let lines = |list: &[String]| list.join("\n");
    let pairs = |map: &BTreeMap<String, String>| {
        map.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "{name}={value}");
            text
        })
    };
    let secrets = step.secrets.iter().fold(String::new(), |mut text, secret| {
        let _ = writeln!(text, "{} from secret {}", secret.env, secret.name);
        text
    });
    let artifacts = around.artifacts.iter().fold(String::new(), |mut text, (place, row)| {
        let _ = writeln!(text, "{} {} {place}", row.sha256, if row.executable { "x" } else { "-" });
        text
    });
    let resources = &step.resources;
    let all = [
        ("commands", format!("{}\n---\n{}", lines(&step.setup), lines(&step.commands))),
        ("inputs", around.inputs.clone()),
        ("image", image),
        ("parameters", pairs(&step.member)),
        ("environment", pairs(&step.env) + &secrets + around.data),
        ("artifacts", artifacts),
        (
            "outputs",
            format!("{}\n{:?} {:?}\n{}", lines(&step.artifacts), step.junit, step.checkpoint, around.metrics),
        ),
        (
            "hardware",
            format!(
                "{} GPUs on {} of {}, {} workers",
                resources.gpu, around.pool, around.executor, step.workers
            ),
        ),
    ];
    let kept = |text: String| if text.len() > LONGEST { digest(&[&text]) } else { text };
    Ok(all.into_iter().map(|(name, text)| (name.to_owned(), kept(text))).collect())
}

/// One digest of all parts.
pub fn of(parts: &BTreeMap<String, String>) -> String {
    let texts: Vec<&str> = parts.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]).collect();
    digest(&texts)
}

/// SHA-256 over length-prefixed texts.
fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// The first part that differs, with what differs in it where that may be said: a path or a name, never a value.
pub fn first_difference(
    this: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Option<(&'static str, Option<String>)> {
    let part = PARTS.into_iter().find(|part| this.get(*part) != other.get(*part))?;
    let text = |parts: &BTreeMap<String, String>| parts.get(part).cloned().unwrap_or_default();
    let (this, other) = (text(this), text(other));
    let only = |a: &str, b: &str| a.lines().find(|line| b.lines().all(|l| l != *line)).map(str::to_owned);
    let line = only(&this, &other).or_else(|| only(&other, &this))?;
    let named = match part {
        "inputs" | "artifacts" => line.rsplit_once(' ').map(|(_, path)| path.to_owned()),
        "parameters" | "environment" => line.split(['=', ' ']).next().map(str::to_owned),
        _ => None,
    };
    Some((part, named))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::SecretRef;

    fn step() -> StepSpec {
        StepSpec {
            member: BTreeMap::from([("seed".into(), "1".into())]),
            commands: vec!["python train.py".into()],
            env: BTreeMap::from([("EPOCHS".into(), "3".into())]),
            image: Some("python:3.12".into()),
            timeout_ms: 1,
            artifacts: vec!["out/**".into()],
            ..StepSpec::named("train (seed=1)")
        }
    }

    #[test]
    fn each_part_makes_another_key_and_is_named() {
        let row = |sha256: &str| ArtifactRow {
            attempt_uid: crate::model::AttemptUid::from_text("a"),
            path: "m".into(),
            bytes: 1,
            sha256: sha256.into(),
            executable: false,
            blob_key: String::new(),
        };
        let (one, two) = (row("11"), row("22"));
        let around = |inputs: &str, artifact, pool, executor| Around {
            inputs: inputs.into(),
            artifacts: vec![("m".to_owned(), artifact)],
            pool,
            executor,
            metrics: String::new(),
            data: "",
        };
        let base = parts(&step(), &around("aa data/x.csv\n", &one, "a100", "local")).unwrap();
        let changed = |change: &dyn Fn(&mut StepSpec)| {
            let mut other = step();
            change(&mut other);
            parts(&other, &around("aa data/x.csv\n", &one, "a100", "local")).unwrap()
        };
        let same = changed(&|s| (s.timeout_ms, s.name) = (9, "train".into()));
        assert_eq!((of(&same), first_difference(&base, &same)), (of(&base), None));
        let named = |name: &str| Some(name.to_owned());
        let cases = [
            ("commands", None, changed(&|s| s.commands[0].push(' '))),
            ("commands", None, changed(&|s| s.setup.push("pip install x".into()))),
            (
                "inputs",
                named("data/x.csv"),
                parts(&step(), &around("ab data/x.csv\n", &one, "a100", "local")).unwrap(),
            ),
            (
                "inputs",
                named("y"),
                parts(&step(), &around("aa data/x.csv\naa y\n", &one, "a100", "local")).unwrap(),
            ),
            ("parameters", named("seed"), changed(&|s| drop(s.member.insert("seed".into(), "2".into())))),
            ("environment", named("EPOCHS"), changed(&|s| drop(s.env.insert("EPOCHS".into(), "4".into())))),
            (
                "environment",
                named("TOKEN"),
                changed(&|s| s.secrets.push(SecretRef { name: "HF".into(), env: "TOKEN".into() })),
            ),
            (
                "artifacts",
                named("m"),
                parts(&step(), &around("aa data/x.csv\n", &two, "a100", "local")).unwrap(),
            ),
            ("outputs", None, changed(&|s| s.artifacts.push("more".into()))),
            ("outputs", None, {
                let mut told = around("aa data/x.csv\n", &one, "a100", "local");
                told.metrics = "scores.json".into();
                parts(&step(), &told).unwrap()
            }),
            ("hardware", None, parts(&step(), &around("aa data/x.csv\n", &one, "h100", "local")).unwrap()),
            ("hardware", None, changed(&|s| s.resources.gpu = 2)),
        ];
        for (part, what, other) in &cases {
            assert_eq!(first_difference(&base, other), Some((*part, what.clone())), "{part}");
            assert_ne!(of(&base), of(other), "{part}");
        }
        // On other machines the image counts, and a tag says nothing.
        let tagged = parts(&step(), &around("", &one, "a100", "kubernetes"));
        assert!(tagged.unwrap_err().contains("goes by a tag"));
        println!("FIGURE reuse.key parts={} cases={}", PARTS.len(), cases.len() + 1);
    }
}
