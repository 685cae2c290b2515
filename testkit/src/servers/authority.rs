//! A certificate authority of one test, for servers on 127.0.0.1 that use TLS.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// Signs certificates that are trusted only by clients that know this authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a server with a certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Path of its certificate (PEM).
    pub certificate: PathBuf,
    /// Path of its private key (PEM).
    pub key: PathBuf,
    /// Path of the certificate of the authority (PEM).
    pub authority: PathBuf,
}

impl Authority {
    /// An authority with a new key.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The certificate of the authority (PEM).
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes a new key and its certificate for a server on 127.0.0.1 into `dir`.
    pub fn issue(&self, dir: &Path) -> anyhow::Result<Issued> {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?
            .signed_by(&key, &self.issuer)?;
        let file = |name: &str, content: String| {
            let path = dir.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("writing {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(Issued {
            certificate: file("server.pem", certificate.pem())?,
            key: file("server.key", key.serialize_pem())?,
            authority: file("authority.pem", self.pem())?,
        })
    }
}
