//! A throwaway certificate authority and what it issues, as PEM files in one directory.
//!
//! PostgreSQL reads its key only from a file that its own user owns and nobody else reads, so the directory is its.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::process;

/// An authority.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let dir =
            tempfile::Builder::new().prefix("crieur-tls-").tempdir().expect("the temporary directory is writable");
        process::give(dir.path(), process::unprivileged());
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names, none wrong");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "crieur's tests");
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        write(&dir.path().join("authority.crt"), &certificate.pem());
        Authority { dir, issuer: Issuer::new(parameters, key) }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("authority.crt")
    }

    /// A certificate for the host or the role `name`.
    pub fn issue(&self, name: &str) -> Pair {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        let pair = Pair { certificate: file("crt"), key: file("key") };
        write(&pair.certificate, &certificate.pem());
        write(&pair.key, &key.serialize_pem());
        pair
    }
}

impl Authority {
    /// A certificate for the host `name` that is signed by itself and marked as an authority's.
    pub fn own(&self, name: &str) -> Pair {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let file = |end: &str| self.dir.path().join(format!("own-{name}.{end}"));
        let pair = Pair { certificate: file("crt"), key: file("key") };
        write(&pair.certificate, &certificate.pem());
        write(&pair.key, &key.serialize_pem());
        pair
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the directory is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    process::give(path, process::unprivileged());
}
