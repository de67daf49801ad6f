//! TLS as libpq means it: how much of the server's certificate is proved, client certificates, channel binding.
//!
//! rustls with the ring provider, named explicitly; no process-wide default is read or set here.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Exit, Result};
use crate::source::dsn::{RootCert, SslMode, TlsSettings};

/// The one provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How much of the server's certificate is proved.
#[derive(Debug)]
enum Proof {
    /// Nothing: the link is secret from listeners only (`require`, `prefer`, `allow`).
    None,
    /// It was issued by a trusted authority (`verify-ca`).
    Chain(RootCertStore),
    /// And it names the host (`verify-full`).
    ChainAndName(RootCertStore),
}

#[derive(Debug)]
struct Verifier {
    proof: Proof,
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
        let algorithms = self.provider.signature_verification_algorithms.all;
        match &self.proof {
            Proof::None => {}
            Proof::Chain(roots) | Proof::ChainAndName(roots) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
                if let Proof::ChainAndName(_) = self.proof {
                    verify_server_name(&certificate, name)?;
                }
            }
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

fn unreadable(what: &str, path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::definite(Exit::NoInput, format!("read {what} \"{}\"", path.display())).because(cause)
}

fn roots(root: &RootCert) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match root {
        RootCert::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
        RootCert::File(path) => {
            let read = |cause| unreadable("the root certificate (sslrootcert)", path, cause);
            for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
                let added = store.add(certificate.map_err(read)?);
                added.map_err(|cause| unreadable("the root certificate (sslrootcert)", path, cause))?;
            }
        }
    }
    if store.is_empty() {
        return Err(Error::definite(Exit::Config, "no trusted certificate authority was found")
            .hint("Give the server's authority with sslrootcert=FILE, or install the package ca-certificates."));
    }
    Ok(store)
}

/// The client's side of TLS for these settings; reads the files that they name.
pub fn config(settings: &TlsSettings) -> Result<ClientConfig> {
    let proof = match settings.mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Proof::None,
        SslMode::VerifyCa => Proof::Chain(roots(&settings.root)?),
        SslMode::VerifyFull => Proof::ChainAndName(roots(&settings.root)?),
    };
    let refuse = |cause: rustls::Error| Error::definite(Exit::Config, "set up TLS").because(cause);
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refuse)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { proof, provider }));
    let Some((certificate, key)) = &settings.client else { return Ok(builder.with_no_client_auth()) };
    let read = |cause| unreadable("the client certificate (sslcert)", certificate, cause);
    let chain = CertificateDer::pem_file_iter(certificate).map_err(read)?;
    let chain = chain.collect::<std::result::Result<Vec<_>, _>>().map_err(read)?;
    let secret = PrivateKeyDer::from_pem_file(key);
    let secret = secret.map_err(|cause| unreadable("the client key (sslkey)", key, cause))?;
    builder.with_client_auth_cert(chain, secret).map_err(refuse)
}

/// Hash functions of `tls-server-end-point`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// Signature algorithms by their object identifier (DER), and the hash that RFC 5929 (section 4.1) takes for them: the
/// signature's own, with MD5 and SHA-1 replaced by SHA-256. Others have no binding.
const SIGNATURES: &[(&[u8], Hash)] = &[
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", Hash::Sha256), // md5WithRSA
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", Hash::Sha256), // sha1WithRSA
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", Hash::Sha256), // sha256WithRSA
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", Hash::Sha384), // sha384WithRSA
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", Hash::Sha512), // sha512WithRSA
    (b"\x2a\x86\x48\xce\x3d\x04\x01", Hash::Sha256),         // ecdsa-with-SHA1
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", Hash::Sha256),     // ecdsa-with-SHA256
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", Hash::Sha384),     // ecdsa-with-SHA384
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", Hash::Sha512),     // ecdsa-with-SHA512
];

/// One DER element: its content, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    rest.split_at_checked(length)
}

fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { algorithm OID, … }, … }
    let (certificate, _) = element(certificate, 0x30)?;
    let (_, rest) = element(certificate, 0x30)?;
    let (algorithm, _) = element(rest, 0x30)?;
    let (oid, _) = element(algorithm, 0x06)?;
    SIGNATURES.iter().find(|(known, _)| *known == oid).map(|(_, hash)| *hash)
}

/// The data of `tls-server-end-point` channel binding for a server certificate (DER), where there is one.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    use rustls::crypto::ring::cipher_suite as suite;
    let suite = match signature_hash(certificate)? {
        Hash::Sha256 => suite::TLS13_AES_128_GCM_SHA256,
        Hash::Sha384 => suite::TLS13_AES_256_GCM_SHA384,
        // ring's suites bring no SHA-512, and PostgreSQL's certificates rarely do.
        Hash::Sha512 => return None,
    };
    let hash = suite.tls13()?.common.hash_provider.hash(certificate);
    Some(hash.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_to_the_hash_of_the_certificates_own_signature() {
        for (algorithm, length) in [(&rcgen::PKCS_ECDSA_P256_SHA256, 32), (&rcgen::PKCS_ECDSA_P384_SHA384, 48)] {
            let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            let parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("parameters");
            let certificate = parameters.self_signed(&key).expect("a certificate");
            assert_eq!(end_point(certificate.der()).map(|hash| hash.len()), Some(length));
        }
    }

    #[test]
    fn no_bytes_panic() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("parameters");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        for length in 0..certificate.der().len() {
            assert_eq!(end_point(&certificate.der()[..length]), None);
        }
    }
}
