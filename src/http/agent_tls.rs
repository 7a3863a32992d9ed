//! TLS of the agent listener. Its CA is derived from the installation's key: nothing secret is stored, every replica and every
//! restart has the same one, and agents that were started before go on trusting it. The serving key is fresh at each start
//! and never leaves memory.

use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::store::Instance;

/// What comes before the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410, section 7).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

#[derive(Clone)]
pub struct AgentTls {
    /// What agents trust, in PEM; it travels in their bootstrap.
    pub ca: String,
    pub server: Arc<ServerConfig>,
}

impl std::fmt::Debug for AgentTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentTls")
    }
}

/// A certificate for these names and addresses, signed by the installation's CA.
///
/// # Errors
/// A name cannot stand in a certificate.
pub fn agent_tls(instance: &Instance, names: &[String]) -> anyhow::Result<AgentTls> {
    let seed = instance.derive("agent-ca", &[]);
    let pkcs8 = [&PKCS8_ED25519[..], &seed[..]].concat();
    let ca_key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)
        .context("cannot make the CA's key")?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name = rcgen::DistinguishedName::new();
    authority.distinguished_name.push(DnType::CommonName, format!("trainyard {}", instance.id));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Always the same bytes, so that a bootstrap of yesterday names the CA of today.
    authority.serial_number = Some(SerialNumber::from(1));
    let ca = authority.self_signed(&ca_key).context("cannot sign the CA")?;

    let key = KeyPair::generate().context("cannot make a serving key")?;
    let mut params = CertificateParams::new(names.to_vec())
        .with_context(|| format!("cannot make a certificate for {names:?}"))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "trainyard agent listener");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params
        .signed_by(&key, &Issuer::from_params(&authority, &ca_key))
        .context("cannot sign the serving certificate")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone(), ca.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .context("cannot use the serving certificate")?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(AgentTls { ca: ca.pem(), server: Arc::new(server) })
}

/// The host of a URL: what its certificate must name.
pub fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = if authority.starts_with('[') {
        authority.split_once(']')?.0.trim_start_matches('[')
    } else {
        authority.rsplit_once(':').map_or(authority, |(host, _)| host)
    };
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_the_same_after_every_start_and_another_one_elsewhere() {
        let instance = |key: u8| Instance::new("i-1", [key; 32]);
        let names = ["10.0.0.1".to_owned(), "trainyard-agents.trainyard.svc".to_owned()];
        let first = agent_tls(&instance(7), &names).unwrap();
        assert_eq!(first.ca, agent_tls(&instance(7), &names).unwrap().ca);
        assert_ne!(first.ca, agent_tls(&instance(8), &names).unwrap().ca);
    }

    #[test]
    fn hosts_of_urls() {
        for (url, host) in [
            ("https://10.0.0.1:8720", Some("10.0.0.1")),
            ("https://a.b.svc:8720/x", Some("a.b.svc")),
            ("https://a.b.svc", Some("a.b.svc")),
            ("https://[fd00::1]:8720", Some("fd00::1")),
            ("nonsense", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
