//! TLS with both servers: how much of a certificate is proved, by which files, and what a failure means in words.
//!
//! rustls with the ring provider, named explicitly; no process-wide default is read or set here. Files are looked at
//! before every connection and read when they have changed, so a certificate that was renewed is used without a
//! restart. Both happen away from the loop's thread: the system's trust store takes tens of milliseconds to read.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Exit, Result};
use crate::observe::{Id, log};

/// The one provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How much of the server's certificate is proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsLevel {
    /// Nothing: the link is secret from listeners only.
    None,
    /// It was issued by a trusted authority.
    Chain,
    /// And it names the host.
    ChainAndName,
}

/// Trusted authorities.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Roots {
    /// The system's trust store.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// What the settings are called where they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsNames {
    /// The authority's file.
    pub root: &'static str,
    /// The client's certificate.
    pub certificate: &'static str,
    /// Its key.
    pub key: &'static str,
}

/// The client's side of TLS with one server.
#[derive(Debug)]
pub struct Trust {
    level: TlsLevel,
    roots: Roots,
    client: Option<(PathBuf, PathBuf)>,
    /// For messages.
    pub names: TlsNames,
    kept: Mutex<Option<Kept>>,
}

/// What was read last.
#[derive(Debug)]
struct Kept {
    files: Vec<Option<Stamp>>,
    config: Arc<ClientConfig>,
}

/// What changes when a file is written or replaced; `None` for one that is not there.
type Stamp = (u64, u64, u64, i64, i64);

/// Where distributions put the system's authorities (crate openssl-probe, which rustls-native-certs asks).
const SYSTEM_STORES: &[&str] = &[
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

impl Trust {
    /// Reads nothing yet.
    pub fn new(level: TlsLevel, roots: Roots, client: Option<(PathBuf, PathBuf)>, names: TlsNames) -> Self {
        Trust { level, roots, client, names, kept: Mutex::default() }
    }

    /// Where the authorities are.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Whether a client certificate is shown to a server that asks for one.
    pub fn has_client(&self) -> bool {
        self.client.is_some()
    }

    /// The configuration by the files as they are now, read on a thread that may wait for a disk.
    pub async fn config(self: &Arc<Self>) -> Result<Arc<ClientConfig>> {
        let trust = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || trust.read());
        read.await.map_err(|cause| Error::transient("reading the files of TLS was broken off").because(cause))?
    }

    /// The same on this thread. Files that cannot be used any more, half written ones among them, leave in force what was
    /// read before.
    pub fn read(&self) -> Result<Arc<ClientConfig>> {
        let files = self.files();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = &mut *kept else {
            let config = Arc::new(self.load()?);
            *kept = Some(Kept { files, config: Arc::clone(&config) });
            return Ok(config);
        };
        if before.files != files {
            before.files = files;
            match self.load() {
                Ok(config) => {
                    log!(Id::TlsReread, "the files of TLS have changed, and were read again: {}", self.paths());
                    before.config = Arc::new(config);
                }
                Err(error) => {
                    let hint = "Mend the file: the next connection reads it.";
                    log!(
                        Id::TlsUnreadable,
                        hint,
                        "a changed file of TLS cannot be used, and what was read before stays in force: {}",
                        error.chain()
                    );
                }
            }
        }
        Ok(Arc::clone(&before.config))
    }

    /// Where its files are.
    fn paths(&self) -> String {
        let root = match &self.roots {
            Roots::File(path) => path.display().to_string(),
            _ => "the system's authorities".to_owned(),
        };
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        let client = client.map(|path| path.display().to_string());
        std::iter::once(root).chain(client).collect::<Vec<_>>().join(", ")
    }

    /// When each file was changed last.
    fn files(&self) -> Vec<Option<Stamp>> {
        let variable = |name| std::env::var_os(name).unwrap_or_default();
        let mut files: Vec<PathBuf> =
            self.client.iter().flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
        match (&self.roots, self.level) {
            (_, TlsLevel::None) => {}
            (Roots::File(path), TlsLevel::Chain | TlsLevel::ChainAndName) => files.push(path.clone()),
            (Roots::System, TlsLevel::Chain | TlsLevel::ChainAndName) => {
                files.push(variable("SSL_CERT_FILE").into());
                files.extend(std::env::split_paths(&variable("SSL_CERT_DIR")));
                files.extend(SYSTEM_STORES.iter().map(PathBuf::from));
            }
        }
        let stamp = |path: &PathBuf| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.dev(), about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
        };
        files.iter().map(stamp).collect()
    }

    fn load(&self) -> Result<ClientConfig> {
        let TlsNames { root, certificate: certificate_name, key: key_name } = self.names;
        let roots = match self.level {
            TlsLevel::None => None,
            TlsLevel::Chain | TlsLevel::ChainAndName => Some(authorities(&self.roots, root)?),
        };
        let refuse = |cause: rustls::Error| Error::definite(Exit::Config, "set up TLS").because(cause);
        let provider = provider();
        let verifier = Verifier { level: self.level, roots, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refuse)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let Some((certificate, key)) = &self.client else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates(certificate, certificate_name)?;
        let secret =
            PrivateKeyDer::from_pem_file(key).map_err(|cause| unusable(key, key_name, "private key", cause))?;
        builder.with_client_auth_cert(chain, secret).map_err(|cause| {
            Error::definite(
                Exit::Config,
                format!("the key in {key_name} is not that of the certificate in {certificate_name}"),
            )
            .hint(format!(
                "Name the certificate in {certificate_name} and the key that it was made with in {key_name}."
            ))
            .because(cause)
        })
    }
}

/// A file that cannot be opened is the system's to explain; one that can holds something else.
fn unusable(path: &Path, name: &str, what: &str, cause: rustls::pki_types::pem::Error) -> Error {
    let file = format!("{name} \"{}\"", path.display());
    match cause {
        rustls::pki_types::pem::Error::Io(cause) => {
            let error = Error::definite(Exit::NoInput, format!("{file} cannot be read")).because(cause);
            error.hint("Correct the path, and let the user read the file whom crieur runs as.")
        }
        _ => Error::definite(Exit::Config, format!("{file} holds no {what} that can be used"))
            .hint(format!("The file must be PEM and hold a {what}: a block that begins with -----BEGIN.")),
    }
}

/// Every certificate of a PEM file, at least one.
fn certificates(path: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = |cause| unusable(path, name, "certificate", cause);
    let found = CertificateDer::pem_file_iter(path).map_err(read)?;
    let found = found.collect::<std::result::Result<Vec<_>, _>>().map_err(read)?;
    if found.is_empty() {
        return Err(read(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// The authorities, each with its certificate.
#[derive(Debug)]
struct Authorities {
    store: RootCertStore,
    /// As they stand in the file; of the system's none.
    named: Vec<CertificateDer<'static>>,
}

fn authorities(roots: &Roots, name: &str) -> Result<Authorities> {
    let (mut store, mut named) = (RootCertStore::empty(), Vec::new());
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
        Roots::File(path) => {
            named = certificates(path, name)?;
            for certificate in &named {
                let added = store.add(certificate.clone());
                added.map_err(|_| unusable(path, name, "certificate", rustls::pki_types::pem::Error::NoItemsFound))?;
            }
        }
    }
    if store.is_empty() {
        return Err(Error::definite(Exit::Config, "the system has no trusted certificate authority").hint(format!(
            "Name the file of the server's authority in {name}, or install the package ca-certificates."
        )));
    }
    Ok(Authorities { store, named })
}

#[derive(Debug)]
struct Verifier {
    level: TlsLevel,
    /// `None` where nothing is proved.
    roots: Option<Authorities>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let chain =
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots.store, intermediates, now, algorithms);
        match chain {
            // `openssl req -x509` marks what it makes as an authority. Whoever names this very certificate trusts it for
            // any name at all; psql takes it as well. It is valid today: that is looked at first
            // (`check_issuer_independent_properties` in webpki).
            Err(error) if is_of_an_authority(&error) && roots.named.iter().any(|named| named == end_entity) => {}
            chain => chain?,
        }
        if self.level == TlsLevel::ChainAndName {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether the certificate is refused because it is marked as an authority's. rustls hands webpki's error on as it is; the
/// crate is not ours to name, its words are.
fn is_of_an_authority(error: &rustls::Error) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

/// What rustls said, if it did.
fn said(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// Whether what was received is no TLS at all.
pub fn is_foreign(cause: &io::Error) -> bool {
    matches!(said(cause), Some(rustls::Error::InvalidMessage(_)))
}

/// The error of a link under TLS that failed: in words, with a way out. Transient: files are read again, clocks are set.
pub fn failed(cause: io::Error, host: &str, trust: &Trust) -> Error {
    let TlsNames { root, certificate, key } = trust.names;
    let Some(error) = said(&cause) else { return Error::transient("TLS").because(cause) };
    let (message, hint) = match error {
        rustls::Error::InvalidCertificate(why) => match refused(why, host, root) {
            Some(words) => words,
            None => return Error::transient("TLS").because(cause),
        },
        rustls::Error::AlertReceived(alert) => {
            use rustls::AlertDescription as Alert;
            match (alert, trust.has_client()) {
                (Alert::CertificateRequired, _) | (Alert::HandshakeFailure | Alert::BadCertificate, false) => (
                    "the server asks for a client certificate".to_owned(),
                    format!(
                        "Name one in {certificate} and its key in {key}, or let the server do without (Redis: tls-auth-clients no)."
                    ),
                ),
                (
                    Alert::UnknownCA
                    | Alert::BadCertificate
                    | Alert::CertificateExpired
                    | Alert::CertificateRevoked
                    | Alert::CertificateUnknown
                    | Alert::UnsupportedCertificate
                    | Alert::DecryptError
                    | Alert::AccessDenied,
                    true,
                ) => (
                    format!("the server does not take the client certificate in {certificate} ({alert:?})"),
                    "It must be issued by an authority that the server trusts, and not have expired.".to_owned(),
                ),
                (Alert::ProtocolVersion, _) => (
                    "the server speaks no TLS that is new enough".to_owned(),
                    "crieur speaks TLS 1.2 and 1.3: switch one of them on at the server.".to_owned(),
                ),
                _ => return Error::transient("TLS").because(cause),
            }
        }
        _ => return Error::transient("TLS").because(cause),
    };
    Error::transient(message).hint(hint)
}

/// A certificate that does not hold: what is wrong with it, and what to do.
fn refused(why: &rustls::CertificateError, host: &str, root: &str) -> Option<(String, String)> {
    use rustls::CertificateError as Why;
    let renew = "Renew the server's certificate, or set this machine's clock: whichever is wrong.";
    let message = |text: &str| format!("the server's certificate {text}");
    Some(match why {
        Why::Expired | Why::ExpiredContext { .. } => (message("has expired"), renew.to_owned()),
        Why::NotValidYet | Why::NotValidYetContext { .. } => (message("is not valid yet"), renew.to_owned()),
        // The second: an authority of the same name, most often the one before or after a renewal.
        Why::UnknownIssuer | Why::BadSignature => (
            message("was issued by an authority that is not trusted here"),
            format!("Name the PEM file of the authority that issued it in {root}."),
        ),
        Why::NotValidForName => (message(&format!("is not for {host}")), format!("Issue one that names {host}.")),
        Why::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            match names.is_empty() {
                true => (
                    message("names no host in subjectAltName; a common name does not count"),
                    format!("Issue one with subjectAltName={host}."),
                ),
                false => (
                    message(&format!("is not for {host}, but for {}", names.join(", "))),
                    format!("Write a name that it is for as the host, or issue one that names {host}."),
                ),
            }
        }
        Why::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => (
            message("is marked as an authority's (CA:TRUE) and proves no server"),
            format!(
                "Issue one for the server with basicConstraints=CA:FALSE, or name this very certificate in {root}."
            ),
        ),
        Why::Other(other) if format!("{other:?}").contains("UnsupportedCertVersion") => (
            message("is of X.509 version 1, which names no host"),
            format!("Issue one of version 3, with subjectAltName={host}."),
        ),
        _ => return None,
    })
}

/// `DnsName("a.example")` as rustls shows a name, without what is around it.
fn bare(name: &str) -> &str {
    name.split('(').next_back().unwrap_or(name).trim_matches(['"', ')'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: TlsNames = TlsNames { root: "the.root", certificate: "the.certificate", key: "the.key" };

    /// A certificate for `localhost`, signed by itself, and its key.
    fn own(is_ca: rcgen::IsCa) -> (rcgen::Certificate, rcgen::KeyPair) {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        parameters.is_ca = is_ca;
        let key = rcgen::KeyPair::generate().expect("a key");
        (parameters.self_signed(&key).expect("a certificate"), key)
    }

    /// What the verifier says of a server's certificate, with these certificates in the file, for this host.
    fn verdict(server: &rcgen::Certificate, file: &[&rcgen::Certificate], host: &'static str) -> String {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, file.iter().map(|one| one.pem()).collect::<String>()).expect("written");
        let roots = authorities(&Roots::File(path), "the.root").expect("certificates");
        let verifier = Verifier { level: TlsLevel::ChainAndName, roots: Some(roots), provider: provider() };
        let name = ServerName::try_from(host).expect("a name");
        match verifier.verify_server_cert(server.der(), &[], &name, &[], UnixTime::now()) {
            Ok(_) => "taken".to_owned(),
            Err(error) => {
                let trust = Trust::new(TlsLevel::ChainAndName, Roots::System, None, NAMES);
                failed(io::Error::new(io::ErrorKind::InvalidData, error), host, &trust).chain()
            }
        }
    }

    #[test]
    fn a_certificate_of_an_authority_is_taken_where_it_is_named_itself() {
        let ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ((server, _), (other, _)) = (own(ca), own(rcgen::IsCa::ExplicitNoCa));
        assert_eq!(verdict(&server, &[&server], "localhost"), "taken");
        assert_eq!(verdict(&server, &[&other, &server], "localhost"), "taken");
        let elsewhere = verdict(&server, &[&server], "elsewhere");
        assert_eq!(elsewhere, "the server's certificate is not for elsewhere, but for localhost");
        let stranger = verdict(&server, &[&other], "localhost");
        assert_eq!(stranger, "the server's certificate is marked as an authority's (CA:TRUE) and proves no server");
    }

    #[test]
    fn a_file_that_changed_is_read_again_and_a_broken_one_leaves_what_was() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("ca.pem");
        let put = |text: &str| {
            // As certificates are renewed: another file under the same name.
            std::fs::write(folder.path().join("new"), text).expect("written");
            std::fs::rename(folder.path().join("new"), &path).expect("renamed");
        };
        let trust = Trust::new(TlsLevel::ChainAndName, Roots::File(path.clone()), None, NAMES);
        assert_eq!(trust.read().expect_err("there is no file").exit(), Exit::NoInput);
        put("nothing of use");
        let error = trust.read().expect_err("no certificate");
        assert_eq!(error.chain(), format!("the.root \"{}\" holds no certificate that can be used", path.display()));
        put(&own(rcgen::IsCa::NoCa).0.pem());
        let first = trust.read().expect("a certificate");
        assert!(Arc::ptr_eq(&first, &trust.read().expect("the same")), "it is read once");
        put("half");
        assert!(Arc::ptr_eq(&first, &trust.read().expect("the one before")));
        put(&own(rcgen::IsCa::NoCa).0.pem());
        assert!(!Arc::ptr_eq(&first, &trust.read().expect("the new one")));
    }

    #[test]
    fn alerts_about_client_certificates_have_a_way_out() {
        use rustls::AlertDescription as Alert;
        let files = Some((PathBuf::from("c"), PathBuf::from("k")));
        for (alert, client, expected) in [
            (Alert::CertificateRequired, None, "the server asks for a client certificate"),
            (Alert::HandshakeFailure, None, "the server asks for a client certificate"),
            (Alert::UnknownCA, files, "the server does not take the client certificate in the.certificate (UnknownCA)"),
            (Alert::ProtocolVersion, None, "the server speaks no TLS that is new enough"),
        ] {
            let trust = Trust::new(TlsLevel::None, Roots::System, client, NAMES);
            let cause = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
            let error = failed(cause, "h", &trust);
            assert_eq!(error.chain(), expected);
            assert!(error.hint.is_some(), "{alert:?}");
        }
    }
}
