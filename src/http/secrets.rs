//! The secrets that handlers need, read once at start: of hooks by URL, of repositories by name.
//!
//! A webhook's secret is chosen by its URL alone, never by its body. Nothing here is `Display` or `Debug` with a value.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use super::hook_claims::Scheme;
use crate::agent::mask::Masker;
use crate::config::{Config, ConfigError, ForgeKind, StepSecret};

/// One webhook URL with its live secrets.
#[derive(Debug)]
pub struct Hook {
    /// The configured forge's name.
    pub forge: String,
    pub kind: ForgeKind,
    pub(super) scheme: Scheme,
    /// None configured means that the hook is closed.
    pub secrets: Vec<SecretString>,
}

#[derive(Debug)]
pub struct Secrets {
    hooks: BTreeMap<(&'static str, String), Hook>,
    /// By (forge, repository in lower case): letter case does not count, as at the forges.
    repositories: BTreeMap<(String, String), RepositorySecrets>,
}

#[derive(Debug)]
struct RepositorySecrets {
    /// By the name that pipelines use.
    values: BTreeMap<String, (StepSecret, SecretString)>,
    masker: Masker,
}

/// What a run may ask for.
#[derive(Debug, Default)]
pub struct Granted<'a> {
    /// By the name that pipelines use.
    pub values: BTreeMap<&'a str, &'a SecretString>,
    /// Secrets that are for other branches, with those.
    pub elsewhere: BTreeMap<&'a str, &'a [String]>,
}

impl Secrets {
    /// # Errors
    /// One sentence that says which secret cannot be read and why.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let mut hooks = BTreeMap::new();
        for (name, forge) in &config.forge {
            for hook in &forge.hook {
                let secrets = hook.read_secrets(name, forge.kind)?;
                let scheme = Scheme::of(forge.kind, hook.legacy_plain_token);
                let made = Hook { forge: name.clone(), kind: forge.kind, scheme, secrets };
                hooks.insert((forge.kind.word(), hook.id.clone()), made); // `Config` refuses two of one URL
            }
        }
        let mut repositories = BTreeMap::new();
        for repository in &config.repository {
            let read: BTreeMap<_, _> = repository
                .secrets
                .iter()
                .map(|(name, secret)| {
                    let value = secret.source.read().map_err(|e| {
                        ConfigError(format!("secret {name} of repository {}: {}", repository.name, e.0))
                    })?;
                    Ok((name.clone(), (secret.clone(), value)))
                })
                .collect::<Result<_, ConfigError>>()?;
            let pairs: Vec<_> = read.iter().map(|(name, (_, value))| (name, value.expose_secret())).collect();
            let masker = Masker::new(&pairs);
            let key = (repository.forge.clone(), repository.name.to_ascii_lowercase());
            repositories.insert(key, RepositorySecrets { values: read, masker });
        }
        Ok(Self { hooks, repositories })
    }

    /// By the two parts of the URL `/hooks/{kind}/{id}`.
    pub fn hook(&self, kind: &str, id: &str) -> Option<&Hook> {
        self.hooks.iter().find(|((k, i), _)| *k == kind && i == id).map(|(_, hook)| hook)
    }
    /// What runs of this branch of a repository may ask for.
    pub fn of_repository(&self, forge: &str, repo: &str, branch: &str) -> Granted<'_> {
        let mut granted = Granted::default();
        for (name, (secret, value)) in self.repository(forge, repo).into_iter().flat_map(|all| &all.values) {
            if secret.is_for(branch) {
                granted.values.insert(name, value);
            } else {
                granted.elsewhere.insert(name, &secret.branches);
            }
        }
        granted
    }
    /// Hides every secret configured for a repository, whichever of them a step asked for. None: it has none.
    pub fn masker(&self, forge: &str, repo: &str) -> Option<&Masker> {
        let all = self.repository(forge, repo)?;
        (!all.values.is_empty()).then_some(&all.masker)
    }
    fn repository(&self, forge: &str, repo: &str) -> Option<&RepositorySecrets> {
        self.repositories.get(&(forge.to_owned(), repo.to_ascii_lowercase()))
    }
}
