use super::*;

const K8S: &str = "[executor.kubernetes]\nnamespace = \"runs\"\nimage = \"ty:1\"\n";
const TOKEN: &str = "[forge.github]\nkind = \"github\"\ntoken = { env = \"PATH\" }\n";

fn parse(extra: &str) -> Result<Config, ConfigError> {
    let text = format!("data_dir = \"/var/lib/trainyard\"\npublic_url = \"https://ty.example\"\n{extra}");
    Config::parse(&text, |_| None)
}

#[test]
fn refuses_what_would_not_work_and_says_what_to_do() {
    let cases = [
        ("data = 1", "unknown field `data`"),
        (K8S, "a loopback address"),
        (&format!("[listen]\nagent = \"0.0.0.0:1\"\n{K8S}"), "set executor.kubernetes.agent_url"),
        (
            &format!("[listen]\nagent = \"10.0.0.1:1\"\n{K8S}agent_url = \"http://a\"\n"),
            "must start with https://",
        ),
        (
            &format!(
                "[listen]\nagent = \"10.0.0.1:1\"\n{K8S}[pool.x]\nexecutor = \"kubernetes\"\nkubernetes.accelerator = \"l4\""
            ),
            "needs a preset",
        ),
        ("[pool.x]\nkubernetes.spot = true", "set executor = \"kubernetes\""),
        ("[forge.g]\nkind = \"github\"\nurl = \"http://x\"\ntoken = { env = \"PATH\" }", "plain http"),
        ("[forge.g]\nkind = \"github\"\ntoken = { env = \"A\", file = \"b\" }", "a secret is either"),
        ("[pool.x]\nslots = 0", "0 slots"),
        ("[pool.x]\nexecutor = \"kubernetes\"", "add [executor.kubernetes]"),
        ("[pool.x]\nexecutor = \"slurm\"", "there are \"local\" and"),
        ("[[repository]]\nforge = \"nope\"\nname = \"a/b\"", "not configured"),
        ("[queue]\nhalf_life_s = 0", "queue.half_life_s is 0"),
        ("[pool.x]\nrepository_slots = 0", "leave it out"),
        ("[retention]\nlogs_days = 0", "must be 1 to 1125899906842624"),
        ("[limits]\nlease_s = 9000000000000000", "must be 1 to 1125899906842624"),
    ];
    for (extra, words) in cases {
        let error = parse(extra).expect_err(extra).to_string();
        assert!(error.contains(words), "{extra}: {error}");
    }
    let hook = |h: &str| parse(&format!("{TOKEN}[[forge.github.hook]]\n{h}")).expect_err(h).to_string();
    assert!(hook("id = \"a\"\nsecrets = []\nowner = \"o\"").contains("has no secret"));
    assert!(hook("id = \"a/b\"\nsecrets = []\nowner = \"o\"").contains("part of the URL"));
    assert!(hook("id = \"a\"\nsecrets = [{ env = \"PATH\" }]").contains("exactly one of"));
}

#[test]
fn the_environment_goes_over_the_file_and_defaults_fill_the_rest() {
    let text = "data_dir = \"/a\"\npublic_url = \"https://ty.example\"\n";
    let config =
        Config::parse(text, |name| (name == "TRAINYARD_LISTEN_APP").then(|| "127.0.0.1:9".into())).unwrap();
    assert_eq!(config.listen.app.port(), 9);
    assert_eq!(config.listen.hooks.port(), 8710);
    assert_eq!(config.database_url(), "sqlite:/a/trainyard.db");
    assert_eq!(config.workspace(), PathBuf::from("/a-work"));
    let pool = &config.pools()["default"];
    assert_eq!((pool.slot_limit(), pool.gpu_limit()), (Some(2), Some(0)));
}

#[test]
fn api_urls_are_derived() {
    let forge = |url: &str| -> ForgeConfig {
        toml::from_str(&format!("kind = \"github\"\nurl = \"{url}\"\ntoken = {{ env = \"PATH\" }}")).unwrap()
    };
    assert_eq!(forge("https://github.com/").api_url(), "https://api.github.com");
    assert_eq!(forge("https://git.corp.example").api_url(), "https://git.corp.example/api/v3");
    let of = |kind: &str, url: &str| -> ForgeConfig {
        toml::from_str(&format!("kind = \"{kind}\"\n{url}\ntoken = {{ env = \"PATH\" }}")).unwrap()
    };
    assert_eq!(of("github", "").api_url(), "https://api.github.com");
    assert_eq!(of("gitlab", "").api_url(), "https://gitlab.com/api/v4");
    assert_eq!(
        of("gitlab", "url = \"https://git.corp.example\"").api_url(),
        "https://git.corp.example/api/v4"
    );
    assert_eq!(
        of("gitea", "url = \"https://git.corp.example/\"").api_url(),
        "https://git.corp.example/api/v1"
    );
    let gitea =
        parse("[forge.g]\nkind = \"gitea\"\ntoken = { env = \"PATH\" }").expect_err("no url").to_string();
    assert!(gitea.contains("needs url"), "{gitea}");
}

#[test]
fn a_secret_is_read_where_it_is_used_and_says_what_is_wrong() {
    let short = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(short.path(), "too short\n").unwrap();
    let hook = |source: SecretSource, legacy_plain_token: bool| HookConfig {
        id: "a".into(),
        secrets: vec![source],
        legacy_plain_token,
        repository: None,
        owner: Some("o".into()),
    };
    let read = |source: SecretSource| {
        hook(source, false).read_secrets("github", ForgeKind::Github).expect_err("a bad secret").to_string()
    };
    let of_gitlab = |text: &str, legacy: bool| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let read =
            hook(SecretSource::File(file.path().into()), legacy).read_secrets("gitlab", ForgeKind::Gitlab);
        read.map_or_else(|error| error.to_string(), |_| "fine".into())
    };
    let (signing, plain) = ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "a plain token of GitLab");
    assert_eq!(of_gitlab(signing, false), "fine");
    assert_eq!(of_gitlab(plain, true), "fine");
    assert!(of_gitlab(plain, false).contains("is not a signing token"));
    assert!(of_gitlab(signing, true).contains("take legacy_plain_token away"));
    assert!(of_gitlab("whsec_C2FVsBQIhrscChl", false).contains("is cut or changed"));
    let cases = [
        (SecretSource::Env("TRAINYARD_NO_SUCH".into()), "TRAINYARD_NO_SUCH is not set"),
        (SecretSource::File("/no/such".into()), "cannot read the file /no/such"),
        (SecretSource::File("/dev/null".into()), "is empty"),
        (SecretSource::File(short.path().into()), "is shorter than 16 bytes"),
    ];
    for (source, words) in cases {
        let error = read(source);
        assert!(error.starts_with("forge github: hook a: ") && error.contains(words), "{error}");
    }
    std::fs::write(short.path(), "long enough to sign\n").unwrap();
    let good = SecretSource::File(short.path().into()).read().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&good), "long enough to sign");
}

#[test]
fn a_class_is_the_default_branchs_within_what_the_administrator_grants() {
    let text = format!(
        "{TOKEN}[queue.priorities]\nlow = -1\nnormal = 0\nhigh = 1\nurgent = 2\n\
         [[repository]]\nforge = \"github\"\nname = \"a/plain\"\n\
         [[repository]]\nforge = \"github\"\nname = \"a/grant\"\npriority = \"low\"\npriority_max = \"high\"\n\
         [[repository]]\nforge = \"github\"\nname = \"a/high\"\npriority = \"high\"\nweight = 2.5\n"
    );
    let config = parse(&text).unwrap();
    // (repository, what the default branch's file names, rank)
    let cases = [
        ("a/none", None, 0),
        ("a/none", Some("high"), 0),
        ("a/none", Some("low"), -1),
        ("a/none", Some("no such class"), 0),
        ("a/plain", Some("urgent"), 0),
        ("a/grant", None, -1),
        ("a/grant", Some("normal"), 0),
        ("a/grant", Some("urgent"), 1),
        ("a/high", None, 1),
        ("a/high", Some("low"), -1),
        ("A/High", Some("urgent"), 1),
    ];
    for (name, named, rank) in cases {
        assert_eq!(config.queue.rank(config.repository("github", name), named), rank, "{name} {named:?}");
    }
    for (line, words) in [("weight = 0.0", "above 0"), ("priority = \"hihg\"", "high, low, normal")] {
        let error = parse(&format!("{TOKEN}[[repository]]\nforge = \"github\"\nname = \"a/b\"\n{line}"));
        assert!(error.unwrap_err().0.contains(words), "{line}");
    }
}

#[test]
fn a_secret_is_for_every_branch_or_for_those_named() {
    let text = format!(
        "{TOKEN}[[repository]]\nforge = \"github\"\nname = \"a/b\"\nsecrets.ALL = {{ env = \"A\" }}\n\
         secrets.SOME.file = \"/x\"\nsecrets.SOME.branches = [\"main\", \"release/*\"]\n"
    );
    let config = parse(&text).unwrap();
    let secrets = &config.repository[0].secrets;
    let cases = [
        ("ALL", "anything", true),
        ("SOME", "main", true),
        ("SOME", "main2", false),
        ("SOME", "release/1", true),
        ("SOME", "release/1/x", false),
        ("SOME", "feature", false),
        ("SOME", "pull/7/head", false),
    ];
    for (name, branch, want) in cases {
        assert_eq!(secrets[name].is_for(branch), want, "{name} {branch}");
    }
    for (secret, words) in [
        ("{ env = \"A\", branches = [] }", "no run would get"),
        ("{ env = \"A\", branches = [\"a[\"] }", "not a glob"),
        ("{ branches = [\"main\"] }", "a secret is either"),
    ] {
        let text =
            format!("{TOKEN}[[repository]]\nforge = \"github\"\nname = \"a/b\"\nsecrets.X = {secret}\n");
        assert!(parse(&text).unwrap_err().0.contains(words), "{secret}");
    }
}

/// `config/trainyard.example.toml` with its optional lines switched on.
fn whole_example() -> String {
    let key = regex::Regex::new(r"^(\[[\[a-z0-9._]+\]|[A-Za-z0-9_.]+ = )").unwrap();
    let text = include_str!("../../config/trainyard.example.toml");
    let on = |line: &'static str| {
        let bare = line.trim_start_matches(['#', ' ']);
        if key.is_match(bare) { bare } else { line }
    };
    text.lines().map(on).collect::<Vec<_>>().join("\n")
}

/// What serde takes as keys of a type, by its refusal of another one.
fn keys_of<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = toml::from_str::<T>("no_such_key = 1") else { panic!("takes any key") };
    let error = error.to_string();
    let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let text = whole_example();
    let _: Config = toml::from_str(&text).unwrap();
    let table: toml::Table = text.parse().unwrap();
    // The tables at a path; `*` is any name, a list counts as each of its entries.
    let at = |path: &str| {
        let mut found = vec![toml::Value::Table(table.clone())];
        for part in path.split('.').filter(|part| !part.is_empty()) {
            found = found
                .iter()
                .filter_map(toml::Value::as_table)
                .flat_map(|t| t.iter().filter(|(key, _)| part == "*" || *key == part).map(|(_, v)| v.clone()))
                .flat_map(|value| match value {
                    toml::Value::Array(entries) => entries,
                    value => vec![value],
                })
                .collect();
        }
        found.iter().filter_map(toml::Value::as_table).flat_map(toml::Table::keys).cloned().collect()
    };
    let cases: [(&str, BTreeSet<String>); 18] = [
        ("", keys_of::<Config>()),
        ("s3", keys_of::<S3Config>()),
        ("listen", keys_of::<Listen>()),
        ("forge.*", keys_of::<ForgeConfig>()),
        ("forge.*.hook", keys_of::<HookConfig>()),
        ("repository", keys_of::<RepositoryConfig>()),
        ("repository.budget", keys_of::<Budget>()),
        ("pool.*", keys_of::<PoolConfig>()),
        ("pool.*.kubernetes", keys_of::<KubernetesPool>()),
        ("pool.*.kubernetes.tolerations", keys_of::<Toleration>()),
        ("queue", keys_of::<QueueConfig>()),
        ("executor", keys_of::<ExecutorConfig>()),
        ("executor.local", keys_of::<LocalConfig>()),
        ("executor.kubernetes", keys_of::<KubernetesConfig>()),
        ("dashboard", keys_of::<DashboardConfig>()),
        ("limits", keys_of::<Limits>()),
        ("retention", keys_of::<RetentionConfig>()),
        ("repository.secrets.*", keys_of::<StepSecret>()),
    ];
    for (path, keys) in cases {
        let shown: BTreeSet<String> = at(path);
        assert!(keys.len() > 1 || path == "dashboard", "{path}: {keys:?}");
        assert_eq!(shown, keys, "[{path}]");
    }
}
