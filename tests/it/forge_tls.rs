//! A forge behind a certificate that a private CA signed, as self-hosted ones are: `ca_file` names that CA, and nothing else is
//! trusted. The CA is made by `rcgen`; the sandbox stands behind a TLS listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use secrecy::ExposeSecret;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use trainyard::clock::SystemClock;
use trainyard::config::{ForgeConfig, ForgeKind, SecretSource};
use trainyard::forge::{self, ForgeError};
use trainyard::model::RepoName;
use trainyard::sandbox::{BOT, Sandbox, SandboxOptions, WRITER};

use crate::worktree::WorkTree;

/// A CA of one's own with its PEM file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// A listener with a certificate for `localhost`, before `to`.
    async fn serve(&self, to: SocketAddr) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(stream).await else { return };
                    let mut plain = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut tls, &mut plain).await;
                });
            }
        });
        port
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_is_trusted_by_its_file_alone() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut cases = 0;
    for kind in [ForgeKind::Github, ForgeKind::Gitlab, ForgeKind::Gitea] {
        let dir = tempfile::tempdir().unwrap();
        let options = SandboxOptions::new(dir.path().join("forge"), Arc::new(SystemClock)).shaped(kind);
        let sandbox = Sandbox::start(options).await.unwrap();
        let repo = RepoName::parse("acme/churn").unwrap();
        sandbox.create_repo(&repo, "main").await.unwrap();
        let tree = WorkTree::new(&sandbox.git_url(&repo, WRITER));
        tree.write("a", "1");
        let head = tree.commit("one");
        tree.push(&["main"]);
        let ours = Authority::new(dir.path(), "ours");
        let theirs = Authority::new(dir.path(), "theirs");
        let port = ours.serve(sandbox.url().trim_start_matches("http://").parse().unwrap()).await;
        let config = |ca: Option<&Authority>| ForgeConfig {
            url: format!("https://localhost:{port}"),
            allow_http: false,
            ca_file: ca.map(|ca| ca.file.clone()),
            ..sandbox.forge_config(SecretSource::Env("UNUSED".into()), Vec::new())
        };
        let right = forge::connect(&config(Some(&ours)), sandbox.token()).unwrap();
        assert_eq!(right.whoami().await.unwrap(), sandbox.account(BOT).actor());
        assert_eq!(right.commit(&repo, &head).await.unwrap().message, "one");
        // Git goes the same way.
        let access = right.git(&repo);
        let refs = access
            .http
            .get(format!("{}/info/refs?service=git-upload-pack", access.url))
            .header("authorization", access.authorization.as_ref().unwrap().expose_secret())
            .send()
            .await
            .unwrap();
        assert_eq!(refs.status(), 200);
        let calls = sandbox.exchanges().len();
        for wrong in [Some(&theirs), None] {
            let client = forge::connect(&config(wrong), sandbox.token()).unwrap();
            let error = client.whoami().await.expect_err("another CA");
            let ForgeError::Transient { message, .. } = &error else { panic!("{error:?}") };
            assert!(
                message.contains("certificate is not trusted") && message.contains("set ca_file"),
                "{message}"
            );
            assert!(!message.contains(sandbox.token().expose_secret()), "{message}");
            let git = client.git(&repo);
            git.http.get(&git.url).send().await.expect_err("git trusts no other CA either");
            cases += 2;
        }
        assert_eq!(sandbox.exchanges().len(), calls, "the token was sent to nobody");
        cases += 3;
    }
    println!("SEC S12 private_ca_cases={cases} failed=0");
}
