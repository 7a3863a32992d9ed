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
        ("[retention]\nlogs_days = 0", "must be 1 or more"),
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
    assert_eq!(config.pools()["default"].slots, 2);
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
